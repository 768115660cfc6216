"""Pretraining heads, task heads and their losses."""
