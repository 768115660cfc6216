"""How models are saved so that others can rely on them."""
