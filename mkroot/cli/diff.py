"""`mkroot diff`: tell two locks, roots or images apart, or what a container changed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.artifact.diff import Difference
    from mkroot.artifact.inventory import Inventory, Package
    from mkroot.resolve.lock import LockedPackage

SHOWN = 200  # files listed of each kind, unless all are wanted


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "diff",
        help="tell two locks, roots or images apart, or what a container changed",
        description="Tell two locks, folders, tar archives, OCI layouts or archives, or images of the store apart: "
        "packages first, then files and bytes. The status is 0 where nothing differs and 1 where something does, as "
        "diff(1) has it. Of a container alone: the paths that it added (A), changed (C) or deleted (D); the status is "
        "0, as docker has it.",
    )
    parser.add_argument("before", metavar="A", help="a lock, a build's output, a root, an archive, or an image's name")
    parser.add_argument("after", nargs="?", metavar="B", help="the same; without it, A is a container")
    parser.add_argument("--arch", metavar="ARCH", help="of a lock or image for several architectures, this one")
    parser.add_argument("--all", action="store_true", help=f"list all files, not the first {SHOWN} of each kind")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare; 0 where nothing differs, 1 where something does."""
    if args.after is None:
        return _container(args)
    from mkroot.artifact.diff import compare

    difference = compare(read(args.before, args.arch), read(args.after, args.arch))
    if args.json:
        import msgspec

        data = msgspec.json.encode({"same": difference.same, **msgspec.to_builtins(difference)})
        sys.stdout.write(msgspec.json.format(data, indent=2).decode() + "\n")
    else:
        for line in lines(difference, None if args.all else SHOWN):
            print(line)
    return 0 if difference.same else 1


def _container(args: argparse.Namespace) -> int:
    """Tell what a container changed; always 0."""
    import os

    from mkroot.cli.terminal import print_json
    from mkroot.container.changes import changed_paths
    from mkroot.container.opening import folders_of
    from mkroot.container.record import Containers
    from mkroot.errors import printable
    from mkroot.rootfs.identity import assume
    from mkroot.rootfs.upper import read_upper
    from mkroot.store.store import Store, default_root

    identity = assume()
    store = Store(default_root(dict(os.environ)))
    containers = Containers(store)
    upper, *below = folders_of(store, containers, containers.find(args.before), identity)
    changes = changed_paths(read_upper(upper), below)
    if args.json:
        print_json([{"kind": c.kind, "path": c.path} for c in changes])
    else:
        sys.stdout.write("".join(f"{c.kind} {printable(c.path)}\n" for c in changes))
    return 0


def lines(difference: Difference, limit: int | None) -> list[str]:
    """Return the difference as people read it; nothing where nothing differs."""
    from mkroot.errors import printable

    found: list[str] = []
    names = [f"+ {p.name} {p.version} ({p.architecture})" for p in difference.packages_added]
    names += [f"- {p.name} {p.version} ({p.architecture})" for p in difference.packages_removed]
    names += [f"~ {c.name} {c.before} → {c.after} ({c.kind})" for c in difference.packages_changed]
    if names:
        counts = (difference.packages_added, difference.packages_removed, difference.packages_changed)
        found.append("packages: {} added, {} removed, {} changed".format(*map(len, counts)))
        found += ["  " + printable(n) for n in sorted(names, key=lambda n: (n[2:], n[0]))]
    added = [f"+ {f.path} ({f.kind} {f.mode} {f.owner}, {f.size} bytes)" for f in difference.files_added]
    removed = [f"- {f.path} ({f.kind} {f.mode} {f.owner}, {f.size} bytes)" for f in difference.files_removed]
    changed = [
        f"~ {f.path}: " + ", ".join(_change(n, *v) for n, v in f.changes.items()) for f in difference.files_changed
    ]
    if added or removed or changed:
        found.append(f"files: {len(added)} added, {len(removed)} removed, {len(changed)} changed")
        for rows in (added, removed, changed):
            found += ["  " + printable(row) for row in rows[:limit]]
            if limit is not None and len(rows) > limit:
                found.append(f"  … {len(rows) - limit} more: `--all` lists them")
    before, after = difference.bytes_before, difference.bytes_after
    if found and before is not None and after is not None:
        found.append(f"bytes: {before} → {after} ({after - before:+d})")
    return found


def _change(name: str, before: str, after: str) -> str:
    return "content" if name == "content" else f"{name} {before or 'none'} → {after or 'none'}"


def read(place: str, arch: str | None) -> Inventory:
    """Return what is in a lock, a build's output, a root, an archive or an image; raises MkrootError."""
    from mkroot.artifact.inventory import read_folder, read_tar
    from mkroot.errors import ArtifactError
    from mkroot.oci.inventory import is_image_archive, read_archive, read_image, sole_image
    from mkroot.oci.layout import Layout

    path = Path(place)
    if path.is_dir():
        if (path / "oci-layout").is_file():
            layout = Layout.open(path)
            return read_image(layout, sole_image(layout), arch)
        if (path / "manifest.json").is_file():
            return _read_output(path, arch)
        return read_folder(path)
    if path.is_file():
        with open(path, "rb") as f:
            head = f.read(512)
        if head.lstrip()[:1] == b"{":
            return _read_lock(path, arch)
        return read_archive(path) if is_image_archive(path) else read_tar(path)
    folder, colon, reference = place.partition(":")
    if colon and (Path(folder) / "oci-layout").is_file():
        layout = Layout.open(Path(folder))
        return read_image(layout, sole_image(layout, reference), arch)
    if place.startswith((".", "/")) or place.endswith((".lock", ".tar", ".gz", ".zst", ".xz")):
        raise ArtifactError("there is no such file or folder", where=place)
    from mkroot.cli.inspect import the_image

    images, image = the_image(place, arch)
    return read_image(images.layout(), image.descriptor)


def _read_output(path: Path, arch: str | None) -> Inventory:
    """Read a build's output folder: files from the first artifact that has them, packages from its manifest."""
    import msgspec

    from mkroot.artifact.inventory import Inventory, Package
    from mkroot.artifact.manifest import read_manifest

    manifest = read_manifest(path / "manifest.json")
    packages = {(p.name, p.architecture): Package(**msgspec.to_builtins(p)) for p in manifest.packages}
    for name in ("rootfs.tar", "rootfs.tar.zst", "rootfs.tar.gz", "oci", "oci.tar", "docker.tar", "rootfs"):
        if (path / name).exists():
            found = read(str(path / name), arch)
            return Inventory(packages=packages or found.packages, files=found.files, texts=found.texts)
    return Inventory(packages=packages, files=None, texts={})


def _read_lock(path: Path, arch: str | None) -> Inventory:
    """Read a lock's packages, of all its architectures or of one."""
    from mkroot.artifact.inventory import Inventory
    from mkroot.errors import LockError
    from mkroot.resolve.lock import decode_lock

    lock = decode_lock(path.read_bytes(), str(path))
    wanted = [arch] if arch else sorted(lock.architectures)
    packages: dict[tuple[str, str], Package] = {}
    for architecture in wanted:
        for p in lock.root(architecture).packages:
            if packages.setdefault((p.name, p.architecture), locked(p)).version != p.version:
                raise LockError(
                    f"{p.name} has different versions for different architectures",
                    where=str(path),
                    hint="name one: `--arch A`",
                )
    return Inventory(packages=packages, files=None, texts={})


def locked(p: LockedPackage) -> Package:
    """Return a locked package as an inventory has it."""
    from mkroot.artifact.inventory import Package

    return Package(
        name=p.name,
        version=p.version,
        architecture=p.architecture,
        source=p.source,
        source_version=p.source_version,
        sha256=p.sha256,
        size=p.size,
        installed_size=p.installed_size * 1024,
    )
