"""Whether models are right: tasks and their metrics, calibration, shifted texts and explanations."""
