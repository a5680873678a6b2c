"""A classifier for photos of anything, as a package: see its rooms below."""
