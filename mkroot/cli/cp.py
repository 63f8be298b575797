"""`mkroot cp`: copy files into or out of a container."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkroot.container.copying import Side


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "cp",
        help="copy files into or out of a container",
        description="Copy a file or a folder between a container, running or not, and this machine: one of SRC and "
        "DEST is CONTAINER:PATH. An existing folder takes SRC in; SRC/. means what is in it; `-` is a tar archive on "
        "standard input or output.",
    )
    parser.add_argument("source", metavar="SRC", help="CONTAINER:PATH, a path here, or `-`")
    parser.add_argument("target", metavar="DEST", help="the same")
    parser.add_argument("-a", "--archive", action="store_true", help="keep owners")
    parser.add_argument("-L", "--follow-link", action="store_true", help="copy what a link SRC leads to")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Copy; 0, or 1 where that fails."""
    from mkroot.container.copying import Side
    from mkroot.container.opening import running_root, writable
    from mkroot.container.record import Containers
    from mkroot.errors import UsageError
    from mkroot.rootfs.identity import assume
    from mkroot.store.store import Store, default_root

    from_container, into_container = _split(args.source), _split(args.target)
    if (from_container is None) == (into_container is None):
        raise UsageError("one of SRC and DEST is in a container: `CONTAINER:PATH`", hint="`mkroot cp --help`")
    store = Store(default_root(dict(os.environ)))
    containers = Containers(store)
    name, path = from_container or into_container or ("", "")
    container = containers.find(name)
    root = running_root(container)
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    identity = assume()

    def copy(root: int) -> None:
        inside = Side(root=root, path=path or "/", shown=f"{name}:{path}")
        other = args.target if from_container else args.source
        outside = Side(root=here, path=_absolute(other), shown=other)
        if from_container:
            _out(inside, outside, args)
        else:
            _in(outside, inside, args)

    if root is not None:
        copy(root)
    else:
        with writable(store, containers, container, identity) as opened:
            copy(opened)
    return 0


def _out(inside: Side, outside: Side, args: argparse.Namespace) -> None:
    from mkroot.cli.streams import target as stream
    from mkroot.container.copying import extract, pack, source, target
    from mkroot.tar.write import END

    with source(inside, follow=args.follow_link) as found:
        if args.target == "-":
            with stream("-") as out:
                for chunk in pack(found, inside.name):
                    out.write(chunk)
                out.write(END)
            return
        with target(outside, found, inside.name) as (into, name):
            extract(_ended(pack(found, name)), into, owners=args.archive)


def _in(outside: Side, inside: Side, args: argparse.Namespace) -> None:
    from mkroot.container.copying import Source, extract, pack, source, target
    from mkroot.errors import ContainerError

    if args.source == "-":
        whole = Source(at=-1, name="", is_folder=True)
        with target(inside, whole, "") as (into, name):
            if name:
                raise ContainerError(f"`{inside.shown}` is not a folder: an archive is unpacked into one")
            extract(_standard_input(), into, owners=True)
        return
    with source(outside, follow=args.follow_link) as found, target(inside, found, outside.name) as (into, name):
        extract(_ended(pack(found, name)), into, owners=args.archive)


def _ended(chunks: Iterator[bytes]) -> Iterator[bytes]:
    from mkroot.tar.write import END

    yield from chunks
    yield END


def _standard_input() -> Iterator[bytes]:
    while piece := sys.stdin.buffer.read(1 << 20):
        yield piece


def _split(text: str) -> tuple[str, str] | None:
    """Return container and path of `CONTAINER:PATH`; None for a path of this machine, which `./a:b` and `/a:b` are."""
    name, colon, path = text.partition(":")
    if not colon or not name or text.startswith((".", "/")) or "/" in name:
        return None
    return name, path


def _absolute(path: str) -> str:
    """Return a path of this machine from its root on, a slash or a dot at its end kept."""
    return path if path.startswith("/") else f"{os.getcwd()}/{path}"
