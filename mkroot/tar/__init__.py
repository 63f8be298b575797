"""The tar format: one entry type, a fast reader, a canonical writer."""
