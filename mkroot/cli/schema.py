"""`mkroot schema`: print the JSON Schema of recipes."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of recipes",
        description="Print the JSON Schema of recipes, for editors and other tools, on standard output.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the schema; always 0."""
    from mkroot.recipe.reference import schema_text

    sys.stdout.write(schema_text())
    return 0
