"""Studies that leave no checkpoint: a dry run, and training with some classes left out."""
