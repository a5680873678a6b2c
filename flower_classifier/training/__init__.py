"""The epoch loop, its state, and the files it leaves."""
