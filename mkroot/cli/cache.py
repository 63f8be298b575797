"""`mkroot cache`: list, measure, prune or verify the store; count what the remote one has."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkroot.store.prune import Item
    from mkroot.store.store import Store
    from mkroot.store.verify import Checked, Checks

DAY = 24 * 3600


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "cache",
        help="list, measure, prune or verify the store",
        description="Look after the store, MKROOT_STORE: packages, unpacked layers, stages and images.",
    )
    actions = parser.add_subparsers(dest="action", metavar="list|size|prune|verify|remote", required=True)
    one = actions.add_parser("list", help="list every entry", description="List every entry: kind, key, size.")
    one.add_argument("kind", nargs="?", metavar="KIND", help="only entries of this kind")
    one.set_defaults(run=run_list)
    two = actions.add_parser(
        "size", help="tell what each kind of entry takes", description="Tell what the store takes."
    )
    two.set_defaults(run=run_size)
    three = actions.add_parser(
        "prune",
        help="remove what was not used for a while",
        description="Remove entries that no build has used for some days, blobs of images without a tag, and "
        "unfinished work. What is removed is fetched or made again when a build needs it. Tagged images and containers "
        "stay.",
    )
    three.add_argument("--days", type=float, default=30, metavar="N", help="unused for so many days (default: 30)")
    three.add_argument(
        "--all", action="store_true", help="everything but tagged images and containers, however recently used"
    )
    three.add_argument("--dry-run", action="store_true", help="tell what would go, and leave it")
    three.set_defaults(run=run_prune)
    four = actions.add_parser(
        "verify",
        help="check every entry's digest, and mend what is damaged",
        description="Read every entry and compare it with its digest. Damaged ones are removed, so that the next "
        "build fetches or makes them again; an image with a damaged blob loses its tags.",
    )
    four.add_argument("--dry-run", action="store_true", help="tell what is damaged, and leave it")
    four.set_defaults(run=run_verify)
    five = actions.add_parser(
        "remote",
        help="count what the remote store has",
        description="Count what the remote store has, the repository of a registry that `[store]` of the "
        "configuration or MKROOT_STORE_REMOTE names.",
    )
    five.set_defaults(run=run_remote)
    for each in (one, two, three, four, five):
        each.add_argument("--json", action="store_true", help="print JSON on standard output")


def _store(own_files: bool) -> Store:
    """Return the store; with `own_files` in the namespace in which a user's unpacked trees can be read and removed."""
    if own_files:
        from mkroot.rootfs.identity import assume

        assume()
    from mkroot.store.store import Store, default_root

    return Store(default_root(dict(os.environ)))


def run_list(args: argparse.Namespace) -> int:
    """List the entries; always 0. Raises UsageError for a kind that there is none of."""
    from mkroot.cli.terminal import amount, print_json, table
    from mkroot.errors import UsageError
    from mkroot.store.prune import KINDS, items

    wanted = (args.kind or "").partition("-")[0]
    if wanted and wanted not in KINDS:
        raise UsageError(f"the store has no entries of the kind `{args.kind}`", hint=f"kinds are {', '.join(KINDS)}")
    found = [i for i in items(_store(True)) if not wanted or i.kind.partition("-")[0] == wanted]
    if args.json:
        print_json([_described(item) for item in found])
    else:
        sys.stdout.write(table([(i.kind, i.key, amount(i.size)) for i in found], right=(2,)))
    return 0


def _described(item: Item) -> dict[str, object]:
    return {"kind": item.kind, "key": item.key, "size": item.size, "used": int(item.used)}


def run_size(args: argparse.Namespace) -> int:
    """Tell the sizes; always 0."""
    from mkroot.cli.terminal import amount, plural, print_json, table
    from mkroot.store.prune import usage

    store = _store(True)
    rows = usage(store)
    total = sum(row.size for row in rows)
    if args.json:
        kinds = [{"kind": r.kind, "entries": r.entries, "size": r.size} for r in rows]
        print_json({"store": str(store.root), "size": total, "kinds": kinds})
        return 0
    lines = [(amount(r.size), r.kind, plural(r.entries, "entry").replace("entrys", "entries"), r.about) for r in rows]
    sys.stdout.write(table([*lines, (amount(total), "in all", "", str(store.root))], right=(0,)))
    return 0


def run_prune(args: argparse.Namespace) -> int:
    """Prune; always 0."""
    import time

    from mkroot.cli.rmi import image_users
    from mkroot.cli.terminal import amount, print_json
    from mkroot.errors import UsageError
    from mkroot.oci.removal import standing
    from mkroot.oci.store import ImageStore
    from mkroot.store.prune import prune

    if not 0 <= args.days < 100_000:
        raise UsageError("`--days` is not a number of days")
    store = _store(True)
    now = time.time()
    before = float("inf") if args.all else now - args.days * DAY
    gone = prune(
        store, before=before, now=now + (2 * DAY if args.all else 0), dry=args.dry_run, keep=lambda: _stood_on(store)
    )
    blobs = 0
    if not args.dry_run and (store.root / "oci").exists():
        images = ImageStore(store)
        blobs = images.collect(keep=standing(images, lambda: image_users(store)))
    size = sum(item.size for item in gone) + blobs
    if args.json:
        print_json({"entries": [_described(item) for item in gone], "size": size, "removed": not args.dry_run})
        return 0
    sys.stdout.write("".join(f"{item.kind} {item.key}\n" for item in gone if args.dry_run))
    sys.stdout.flush()
    verb = "would go" if args.dry_run else "removed"
    sys.stderr.write(f"{len(gone)} entries, {amount(size)} {verb}\n")
    return 0


def _stood_on(store: Store) -> set[str]:
    """Return the keys of the layers on which containers stand."""
    from mkroot.container.record import Containers

    return {key for container in Containers(store).list() for key in container.layers}


def run_verify(args: argparse.Namespace) -> int:
    """Verify; 0, or 1 where something is damaged, mended or not."""
    from itertools import chain

    from mkroot.cli.terminal import labelled, print_json
    from mkroot.store.use import sweep
    from mkroot.store.verify import mend, verify

    store = _store(True)
    count = 0
    damaged: list[Checked] = []
    for checked in chain(verify(store, _checks()), _index(store)):
        count += 1
        if checked.fault:
            damaged.append(checked)
            if not args.json:
                sys.stderr.write(labelled("error", f"{checked.item.path}: {checked.fault}"))
    gone = [] if args.dry_run else [c for c in damaged if _is_index(c) or mend(store, c)]
    sweep(store)
    if any(c.item.kind == "oci" for c in gone):
        _untag(store)
    if args.json:
        faults = [{**_described(c.item), "path": str(c.item.path), "fault": c.fault} for c in damaged]
        print_json({"entries": count, "damaged": faults, "mended": bool(damaged) and len(gone) == len(damaged)})
    elif gone:
        sys.stderr.write(f"{count} entries, {len(gone)} damaged and removed; the next build makes them again\n")
    else:
        sys.stderr.write(f"{count} entries, {len(damaged)} damaged\n")
    for checked in damaged if not args.dry_run else ():
        if checked not in gone:
            sys.stderr.write(labelled("hint", f"{checked.item.path} stays, for nothing can make it again"))
    return 1 if damaged else 0


def run_remote(args: argparse.Namespace) -> int:
    """Count the remote store's entries; always 0. Raises StoreError where none is configured, or it cannot be read."""
    from mkroot import remote
    from mkroot.archive import config
    from mkroot.cli.terminal import plural, print_json, table
    from mkroot.errors import StoreError
    from mkroot.remote.listing import KINDS, listing

    settings = remote.settings(os.environ, config.load(os.environ))
    if settings is None:
        raise StoreError(
            "no remote store is configured",
            hint='set `remote = "registry.example:5000/team/store"` under `[store]` in config.toml, or '
            "`MKROOT_STORE_REMOTE`",
        )
    found = listing(settings, os.environ)
    if args.json:
        print_json({"remote": settings.name, "entries": found})
    else:
        rows = [(kind, plural(n, "entry").replace("entrys", "entries"), KINDS[kind]) for kind, n in found.items()]
        sys.stdout.write(table(rows))
    return 0


def _checks() -> Checks:
    """Return what checks entries of forms that the store itself does not know."""
    from mkroot.archive.table import check as table
    from mkroot.container.record import check as container

    return {"indices": table, "containers": container}


def _index(store: Store) -> Iterator[Checked]:
    """Check the index of the image store."""
    from mkroot.oci.repair import index_fault
    from mkroot.oci.store import ImageStore
    from mkroot.store.prune import Item
    from mkroot.store.verify import Checked

    if (store.root / "oci").exists():
        path, fault = index_fault(ImageStore(store))
        yield Checked(item=Item(kind="oci", key=path.name, path=path, size=0, used=0), fault=fault)


def _is_index(checked: Checked) -> bool:
    return checked.item.path.name == "index.json"


def _untag(store: Store) -> None:
    """Take the tags off images that are not whole any more."""
    from mkroot.cli.terminal import labelled
    from mkroot.oci.repair import repair
    from mkroot.oci.store import ImageStore

    for name in repair(ImageStore(store)):
        sys.stderr.write(labelled("warning", f"the image store lost {name}: build or pull it again"))
