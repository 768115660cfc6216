"""Self-attention: the layer, the masks and rotary positions it takes, and one file for each way to compute it."""
