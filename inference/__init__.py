"""Runs models: pipelines, runtimes, quantization, and vectors and predictions for whole corpora."""
