"""Self-attention: the module, its masks and rotary positions, and one file for each way to compute it."""
