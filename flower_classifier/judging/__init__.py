"""What answers are worth: evaluation, calibration, prediction sets, strangers, heat maps."""
