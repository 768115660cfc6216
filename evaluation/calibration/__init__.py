"""How a calibration is fitted: the scaling of scores, prediction sets and the score of unfamiliar texts."""
