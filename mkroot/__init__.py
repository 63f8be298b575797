"""mkroot builds small Linux systems from a recipe."""

__version__ = "0.2.0"
BUILD_TYPE = "urn:mkroot:build:1"  # what a build record's parameters mean; another number where they change
