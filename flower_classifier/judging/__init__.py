"""What answers are worth, and the predictor that gives them."""
