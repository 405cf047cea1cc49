"""Language models that learn from verified responses, in groups."""
