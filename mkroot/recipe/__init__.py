"""The recipe: YAML with places, composition, validation, and the model that the rest of mkroot reads. No network."""
