"""From a test set to a table: predict, score, compare."""
