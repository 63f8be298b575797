"""Containers: an image's layers under a writable one, a command that runs in them, and what is kept of both."""
