"""`mkroot explain`: tell what made a file, down to the archive's key."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "explain",
        help="tell what made a file, down to the archive's key",
        description="Tell what made a path of an output or an image: the package, script, hook or key of the recipe, "
        "and below it the .deb's digest, the signed Release and the key. The store that built it knows.",
    )
    parser.add_argument("target", metavar="OUT|REF", help="an output folder, a file in it, or an image")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a path in the root")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain the paths; 0, or 1 where one is not known."""
    from pathlib import Path

    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.errors import StoreError
    from mkroot.records import recall, tree_of
    from mkroot.remote import attached
    from mkroot.resolve.lock import decode_lock
    from mkroot.rootfs.explain import explain, told
    from mkroot.store.layer import LayerStore
    from mkroot.store.store import Store, default_root

    store = Store(default_root(dict(os.environ)))
    digest = _digest(args.target, args.arch, Path(args.target))
    record = recall(store, digest)
    if record is None:
        raise StoreError(
            f"the store does not know what `{args.target}` was made of",
            where=str(store.root),
            hint="only the store that built it does; build its recipe again with this one",
        )
    with attached(store, os.environ, make_progress(quiet=True)):  # of a build that was fetched, the layers were not
        tree = tree_of(LayerStore(store), record)
    lock = decode_lock(record.lock, "the lock in the store")
    found = [explain(tree, path, lock, record.architecture) for path in args.paths]
    if args.json:
        print_json([one.data() for one in found])
    else:
        sys.stdout.write("".join(told(one) + "\n" for one in found))
    return 0


def _digest(target: str, arch: str | None, path: Path) -> str:
    """Return the digest under which a root is recorded: of the tree of an output, or of an image's manifest."""
    if path.exists():
        from mkroot.artifact.manifest import read_manifest

        return read_manifest(_manifest(path)).tree
    if target.startswith((".", "/")):
        from mkroot.errors import ArtifactError

        raise ArtifactError("there is no such output", where=target)
    from mkroot.cli.inspect import the_image

    _, image = the_image(target, arch)
    return image.digest


def _manifest(path: Path) -> Path:
    """Return the manifest of an output: of this folder, of the one that holds this file, or the only one below it."""
    from mkroot.artifact.manifest import FILE_NAME
    from mkroot.errors import ArtifactError

    for near in (path, path.parent):
        if (near / FILE_NAME).is_file():
            return near / FILE_NAME
    below = sorted([*path.glob(f"*/{FILE_NAME}"), *path.glob(f"*/*/{FILE_NAME}")])
    if len(below) == 1:
        return below[0]
    names = ", ".join(str(p.parent) for p in below[:10])
    raise ArtifactError(
        f"it holds {len(below)} outputs" if below else f"there is no {FILE_NAME} in it or beside it",
        where=str(path),
        hint=f"name one: {names}" if below else "name the folder NAME/ARCH that `mkroot build` wrote",
    )
