"""What stands on top of the encoder: poolings, task heads, pretraining heads and their losses."""
