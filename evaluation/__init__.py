"""Calibration of models that have a head for a task, and their evaluation on texts that have shifted."""
