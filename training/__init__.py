"""Recipes become weights: what is frozen, where LoRA goes, what is learned in which order. Meets data only
as cases."""
