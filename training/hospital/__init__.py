"""A hospital's export becomes cases, without the patients: `rows` reads the reports, `index` finds the
images, `texts` and `imaging.deidentify` take out who it is, `export` writes the cases.

Knows nothing of models or training stages.
"""
