"""Photos in, answers out: with torch, or of an exported folder without it."""
