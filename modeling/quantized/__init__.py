"""Layers in eight bits, and how transformers loads and saves them."""
