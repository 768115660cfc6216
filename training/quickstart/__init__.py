"""`sequence-encoder quickstart`: the whole way on documentation that is already on this disk."""
