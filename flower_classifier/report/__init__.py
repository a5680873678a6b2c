"""What a run leaves for people: tables, charts, pictures."""
