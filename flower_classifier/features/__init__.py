"""Each photo through the frozen part once, and what comes out kept."""
