"""Training of encoders. Nothing here is needed to use a trained encoder."""
