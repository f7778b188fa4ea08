"""What differs between the variants of EchoVLM's Tables 5–7, and what does not."""

from benchmarks.ablations import RECIPE, VARIANTS, variant_recipe
from training.recipe import read_recipe


def test_variants_differ_in_the_mixture_alone():
    recipe = read_recipe(RECIPE)
    made = {name: variant_recipe(recipe, own, (7, 5)) for name, own in VARIANTS.items()}
    for name, own in VARIANTS.items():
        stages = made[name].stages
        assert [stage.kind for stage in stages] == (
            ["captions", "lora"] if own is None else ["moe", "instruct"]
        )
        assert [(stage.schedule.steps, stage.schedule.minutes) for stage in stages] == [(7, None), (5, None)]
        for stage, like in zip(stages, recipe.stages, strict=True):
            assert stage.schedule.learning_rate == like.schedule.learning_rate
            assert (stage.most_turns, stage.turn_weight) == (like.most_turns, like.turn_weight)
            assert (stage.option_orders, stage.lora) == (like.option_orders, like.lora)
        assert made[name].mixture == (None if own is None else recipe.mixture | own)
