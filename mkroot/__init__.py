"""mkroot builds small Linux systems from a recipe."""

__version__ = "0.1.0"
