"""Explanations of models' outputs, each with its faithfulness to the model."""
