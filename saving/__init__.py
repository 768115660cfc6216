"""How models, configurations and tokenizers are saved and loaded: whole or not at all, with the code they need."""
