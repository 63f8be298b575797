"""`mkroot history`: show how an image's layers came to be."""

from __future__ import annotations

import argparse
import sys


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "history",
        help="show how an image's layers came to be",
        description="Show an image's layers and the changes of its config, the newest first.",
    )
    parser.add_argument("reference", metavar="REF", help="an image: name:tag, digest, or the beginning of its id")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.add_argument("--no-trunc", action="store_true", help="print whole lines")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the history; 0, or 1 where there is no such image."""
    import json

    from mkroot.cli.images import amount, print_table
    from mkroot.cli.inspect import the_image

    _, image = the_image(args.reference, args.arch)
    rows = []
    layers = list(zip(image.manifest.layers, image.config.rootfs.diff_ids, strict=True))
    for step in image.config.history:
        layer, diff_id = layers.pop(0) if not step.empty_layer and layers else (None, "")
        rows.append(
            {
                "created": step.created,
                "created_by": step.created_by,
                "author": step.author,
                "comment": step.comment,
                "empty_layer": step.empty_layer,
                "size": layer.size if layer else 0,
                "digest": layer.digest if layer else None,
                "diff_id": diff_id or None,
            }
        )
    rows.reverse()
    if args.json:
        json.dump(rows, sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        return 0
    table = [("LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT")]
    for row in rows:
        table.append(
            (
                str(row["digest"] or "<none>").removeprefix("sha256:")[:12],
                str(row["created"]).partition("T")[0],
                cut(str(row["created_by"]), 60, args.no_trunc),
                amount(layer_size(row["size"])),
                cut(str(row["comment"]), 60, args.no_trunc),
            )
        )
    print_table(table, right=(3,))
    return 0


def layer_size(value: object) -> int:
    """Return a row's size as the number that it is."""
    return value if isinstance(value, int) else 0


def cut(text: str, width: int, whole: bool) -> str:
    """Return text on one line, cut to a width unless all of it is wanted."""
    from mkroot.errors import printable

    text = printable(" ".join(text.split()))
    return text if whole or len(text) <= width else text[: width - 1] + "…"
