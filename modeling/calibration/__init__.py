"""What a calibrated model computes: scaled scores, prediction sets and p-values."""
