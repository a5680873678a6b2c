"""From files to pixels, and from folders to splits, classes and names. Loads no torch."""
