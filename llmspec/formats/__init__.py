"""Formats of others, read and written: each a folder of mapping tables, which are data, and of what applies them."""
