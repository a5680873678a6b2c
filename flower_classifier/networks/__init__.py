"""Backbones, the classifier on one, what of it is frozen, and the checkpoint that rebuilds it."""
