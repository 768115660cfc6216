"""The formats of checkpoints: folders of transformers, of other packages, and of models whose code is on the Hub."""
