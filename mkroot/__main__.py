"""`python -m mkroot` is `mkroot`."""

from mkroot.cli.main import entry

entry()
