"""The epoch loop, where it stands, and what it leaves."""
