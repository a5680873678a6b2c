"""What people see: formats, tables, charts, pictures."""
