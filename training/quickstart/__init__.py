"""`sequence-encoder quickstart`: the whole workflow, on the docstrings of the installed libraries."""
