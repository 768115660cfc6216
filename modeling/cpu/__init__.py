"""Faster equivalents of plain modules on a CPU. Readers who want to understand the model can skip them."""
