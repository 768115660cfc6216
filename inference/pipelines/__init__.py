"""Pipelines of transformers for tasks and models that transformers lacks."""
