"""What a spec is made of: one folder a kind, one file a part, named by its YAML value."""
