"""What a run is made of: the schema, recipes, validation."""
