"""Saving and loading of models, configurations and tokenizers, atomically and with the code that they need."""
