"""`mkroot images`: list the images of the store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "images",
        help="list the images of the store",
        description="List the images of the store. Sizes are those of the compressed layers; UNIQUE is what no other "
        "image has.",
    )
    parser.add_argument("reference", nargs="?", metavar="REF", help="only the images of this name, or this one")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the images; always 0."""
    import os

    from mkroot.errors import ImageError
    from mkroot.oci.reference import Reference
    from mkroot.oci.store import ImageStore, listed_json
    from mkroot.store.store import Store, default_root

    rows = ImageStore(Store(default_root(dict(os.environ)))).images()
    if args.reference:
        wanted = Reference.parse(args.reference)
        exact = ":" in args.reference.rpartition("/")[2]

        def fits(reference: str) -> bool:
            try:
                found = Reference.parse(reference)
            except ImageError:
                return False
            return found.name == wanted.name and (not exact or found.tag == wanted.tag)

        rows = [row for row in rows if fits(row.reference)]
    if args.json:
        sys.stdout.write(listed_json(rows).decode())
        return 0
    table = [("REFERENCE", "DIGEST", "CREATED", "LAYERS", "SIZE", "UNIQUE")]
    for row in rows:
        table.append(
            (
                row.reference or "<none>",
                row.digest.partition(":")[2][:12],
                row.created.partition("T")[0],
                str(row.layers),
                amount(row.size),
                amount(row.unique),
            )
        )
    print_table(table, right=(3, 4, 5))
    return 0


def amount(size: int) -> str:
    """Return a number of bytes as people read it, in powers of 1,000 as Docker writes them."""
    if size < 1000:
        return f"{size} B"
    for power, unit in ((1, "kB"), (2, "MB"), (3, "GB")):
        value = size / 1000**power
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value:.0f} {unit}"


def print_table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """Print rows in columns on standard output; those in `right` are aligned there."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("   ".join(cells).rstrip())
