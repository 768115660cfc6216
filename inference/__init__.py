"""Pipelines, and the device and dtype of inference."""
