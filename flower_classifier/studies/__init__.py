"""Questions that leave no checkpoint."""
