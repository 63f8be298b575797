"""The first thing in which two artifacts of a build differ: images layer by layer, the rest as their kind allows."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mkroot.artifact.contrast import (
    file_difference,
    first_offset,
    folder_difference,
    json_difference,
    tar_difference,
)
from mkroot.artifact.inventory import unpacked
from mkroot.artifact.tools import HostTools
from mkroot.artifact.whereabouts import at_offset
from mkroot.errors import ArtifactError, ImageError, MkrootError, printable
from mkroot.oci.inventory import layers_of
from mkroot.oci.members import archive_members
from mkroot.tar.stream import Corrupt

ARCHIVES = ("oci.tar", "docker.tar")
DISKS = (".raw", ".qcow2", ".iso", ".ext4", ".img")
Members = Mapping[str, memoryview]


def difference(before: Path, after: Path) -> str:
    """Return in what an artifact first differs from the same one built again, "" for nothing.

    The name says of what kind they are, as builds name them. Raises MkrootError, OSError.
    """
    if before.is_dir() != after.is_dir():
        return "a folder and a file"
    if before.is_dir():
        return _folders(before, after)
    if before.name in ARCHIVES:
        return _archives(before, after)
    if before.suffix in DISKS:
        return _disks(before, after)
    return file_difference(before, after)


def _folders(before: Path, after: Path) -> str:
    if (after / "oci-layout").is_file():
        return image_difference(_files(before), _files(after))
    found = folder_difference(before, after)
    path = found.partition(": ")[0].lstrip("/")
    if path.endswith(".cpio.zst") and ": content differs" in found:  # the initramfs of a bootfs
        with contextlib.suppress(MkrootError, OSError):
            return f"/{path}: {file_difference(before / path, after / path)}"
    return found


def _files(folder: Path) -> dict[str, memoryview]:
    """Return the files of an image layout by name; a link is a file that says where it leads."""
    found = {}
    for at, names, files in os.walk(folder):
        names.sort()
        for name in sorted(files):
            path = os.path.join(at, name)
            data = os.fsencode(os.readlink(path)) if os.path.islink(path) else Path(path).read_bytes()
            found[os.path.relpath(path, folder)] = memoryview(data)
    return found


def _archives(before: Path, after: Path) -> str:
    """Compare two archives of images; what they hold first, then how it stands in them."""
    try:
        with archive_members(before) as old, archive_members(after) as new:
            found = image_difference(old, new)
    except (OSError, ValueError, Corrupt, ImageError):
        found = ""
    return found or file_difference(before, after)


def image_difference(before: Members, after: Members) -> str:
    """Return in what two images first differ: a layer's member, else a document's key, else a blob."""
    for number, (old, new) in enumerate(zip(_layers(before), _layers(after))):
        if old != new:
            found = tar_difference(lambda v=old: _plain(v), lambda v=new: _plain(v))  # type: ignore[misc]
            return f"layer {number + 1}: {found or 'packed otherwise'}"
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            return f"{printable(name)}: only in the artifact"
        if name not in before:
            return f"{printable(name)}: missing in the artifact"
        if before[name] != after[name]:
            found = json_difference(bytes(before[name]), bytes(after[name])) if bytes(after[name][:1]) == b"{" else ""
            return f"{printable(name)}: {found or 'content differs'}"
    return ""


def _plain(view: memoryview) -> Iterator[bytes]:
    yield from unpacked(view, "a layer")


def _layers(members: Members) -> list[memoryview]:
    """Return an image's layers, none where its documents do not lead to them."""
    try:
        return [view for view, _ in layers_of(dict(members), "an image")]
    except (MkrootError, KeyError):
        return []


def _disks(before: Path, after: Path) -> str:
    """Compare two images of disks or file systems; qcow2 images by what a machine would see of them."""
    with tempfile.TemporaryDirectory(dir=after.parent, prefix=".raw.") as folder:
        old, new = before, after
        if before.suffix == ".qcow2":
            old, new = Path(folder, "old.raw"), Path(folder, "new.raw")
            try:
                for source, raw in ((before, old), (after, new)):
                    options = ["convert", "-q", "-f", "qcow2", "-O", "raw"]
                    HostTools().run("qemu-img", [*options, str(source.absolute()), str(raw)])
            except ArtifactError:
                return f"damaged, or not to be read here; {file_difference(before, after)}"
        at = first_offset(old, new)
        if at is None:
            return file_difference(before, after)
        place = at_offset(new, at)
        sizes = [path.stat().st_size for path in (old, new)]
        size = "" if sizes[0] == sizes[1] else f"; {sizes[0]} → {sizes[1]} bytes"
        return f"{place + ': ' if place else ''}other bytes from offset {at} on{size}"
