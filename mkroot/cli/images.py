"""`mkroot images`: list the images of the store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.store import ImageStore


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "images",
        help="list the images of the store",
        description="List the images of the store. Sizes are those of the compressed layers; UNIQUE is what no other "
        "image has.",
    )
    parser.add_argument("reference", nargs="?", metavar="REF", help="only the images of this name, or this one")
    parser.add_argument("-q", "--quiet", action="store_true", help="print digests alone, for use in scripts")
    parser.add_argument("--digests", "--no-trunc", action="store_true", help="print digests in full")
    parser.add_argument("--tree", action="store_true", help="draw which image stands on which")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the images; always 0."""
    from mkroot.errors import UsageError
    from mkroot.oci.store import listed_json

    if args.tree:
        if args.reference or args.quiet:
            raise UsageError("`--tree` draws all images: it takes no name and no `-q`")
        return _draw(args)
    rows = image_store().images()
    if args.reference:
        rows = [row for row in rows if _fits(row.reference, args.reference)]
    if args.json:
        sys.stdout.write(listed_json(rows).decode())
        return 0
    if args.quiet:
        sys.stdout.write("".join(f"{_short(d, args.digests)}\n" for d in dict.fromkeys(r.digest for r in rows)))
        return 0
    table = [("REFERENCE", "DIGEST", "CREATED", "LAYERS", "SIZE", "UNIQUE")]
    for row in rows:
        table.append(
            (
                row.reference or "<none>",
                _short(row.digest, args.digests),
                row.created.partition("T")[0],
                str(row.layers),
                amount(row.size),
                amount(row.unique),
            )
        )
    print_table(table, right=(3, 4, 5))
    return 0


def _fits(reference: str, asked: str) -> bool:
    """Tell whether an image's tag is of the name that was asked for, and has its tag where one was given."""
    from mkroot.errors import ImageError
    from mkroot.oci.reference import Reference

    wanted = Reference.parse(asked)
    try:
        found = Reference.parse(reference)
    except ImageError:
        return False
    return found.name == wanted.name and (":" not in asked.rpartition("/")[2] or found.tag == wanted.tag)


def _short(digest: str, whole: bool) -> str:
    return digest if whole else digest.partition(":")[2][:12]


def _draw(args: argparse.Namespace) -> int:
    """Draw the inheritance, a line an image: what it adds, and what it comes to with all below it."""
    from mkroot.oci.descent import Kin, descent

    roots = descent(image_store())
    if args.json:
        import msgspec

        from mkroot.cli.terminal import print_json

        print_json(msgspec.to_builtins(roots))
        return 0
    table = [("IMAGE", "DIGEST", "CREATED", "LAYERS", "OWN", "SIZE")]

    def add(kin: Kin, lead: str, inner: str) -> None:
        table.append(
            (
                lead + (", ".join(kin.references) or "<none>"),
                _short(kin.digest, args.digests),
                kin.created.partition("T")[0],
                str(kin.layers),
                amount(kin.own),
                amount(kin.size),
            )
        )
        for child in kin.children:
            last = child is kin.children[-1]
            add(child, inner + ("└── " if last else "├── "), inner + ("    " if last else "│   "))

    for kin in roots:
        add(kin, "", "")
    print_table(table, right=(3, 4, 5))
    return 0


def image_store() -> ImageStore:
    """Return the user's image store; raises StoreError."""
    import os

    from mkroot.oci.store import ImageStore
    from mkroot.store.store import Store, default_root

    return ImageStore(Store(default_root(dict(os.environ))))


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
