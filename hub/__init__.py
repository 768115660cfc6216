"""How models are saved and shared so that others can rely on them.

`saving`, `staged_files` and `code_bundle` stand below all rooms, which save through them; the rest is above `modeling`.
"""
