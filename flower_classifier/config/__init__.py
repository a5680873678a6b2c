"""What can be asked of the three commands, and between which limits. Loads no torch."""
