"""Distillation of a smaller model from one that is trained: `sequence-encoder distill`."""
