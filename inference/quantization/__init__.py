"""Quantization of models to eight bits: calibration, the choice of layers, and the command."""
