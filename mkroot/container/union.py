"""A container's root: the image's layers, what is mounted upon, and the container's own upper folder, as one union."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mkroot.container.view import View
from mkroot.decoding import from_json
from mkroot.errors import ContainerError
from mkroot.oci.store import Image, ImageStore
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.union import Union, mount_union
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store
from mkroot.store.trees import Trees

FORMAT = "1"  # of the record of an image's layers
_FOLDERS = ("dev", "proc", "sys")
_APT = "etc/apt/apt.conf.d"
FILES = ("etc/resolv.conf", "etc/hosts", "etc/hostname")


class Place(msgspec.Struct, frozen=True):
    """Something to mount upon. path: without links, relative to the root. content: of a file that is not covered."""

    path: str
    is_folder: bool = True
    content: bytes = b""


def layer_keys(store: Store, images: ImageStore, image: Image, identity: Identity) -> tuple[str, ...]:
    """Return the keys of an image's layers, from the bottom up, each of which has its tree in the store then.

    What is not unpacked yet is unpacked, once for a store and an identity. Which layers an image has is kept as well,
    so that a known one costs nothing. The caller holds off `prune` until a container names the layers.
    Raises ImageError, StoreError.
    """
    trees = trees_of(store, identity)
    key = hashlib.sha256(f"union {FORMAT} {image.digest}".encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        keys = from_json(opened(store.path("unions", key).read_bytes()), tuple[str, ...])
        if keys and all(trees.has(k) for k in keys):
            _touch(store, keys)
            return keys
    from mkroot.oci.layers import image_root
    from mkroot.rootfs.top import top_tree
    from mkroot.store.layer import LayerStore

    layers = LayerStore(store)
    with store.lock("unions", key):
        root = image_root(layers, images, image)
        for layer in root.tops:
            top_tree(layers, layer, identity, trees, root.tree)
    keys = tuple(layer.key for layer in root.tops)
    with store.writing("unions", key) as aside:
        aside.write_bytes(sealed(msgspec.json.encode(keys)))
        store.path("unions", key).unlink(missing_ok=True)  # a damaged one would stay
    return keys


def trees_of(store: Store, identity: Identity) -> Trees:
    """Return where the layers' trees of an identity are."""
    return Trees(store.root / f"trees-{identity.tag}", aside=store.root / "tmp")


def _touch(store: Store, keys: Sequence[str]) -> None:
    """Note that layers are used, for `prune` goes by the times at which their records were read."""
    for key in keys:
        path = store.path("layers", key)
        with contextlib.suppress(OSError):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def lowers_of(trees: Trees, keys: Sequence[str]) -> list[Path]:
    """Return the layers' trees, the topmost first; raises ContainerError where one is gone."""
    found = [trees.path(key) for key in reversed(keys)]
    for path in found:
        if not path.is_dir():
            raise ContainerError(
                "a layer of the container's image is gone from the store",
                where=str(path),
                hint="it may have been made by another user; else remove the container and run its image again",
            )
    return found


def places(view: View, volumes: Sequence[tuple[str, bool]]) -> tuple[list[Place], list[str]]:
    """Return what is mounted upon in a root, FILES the first of the files, and where each of the volumes goes.

    volumes: path in the container, and whether it is a folder. Raises ContainerError where a path cannot be had.
    """
    found = [Place(name) for name in _FOLDERS]
    for file in FILES:
        up, _, name = file.rpartition("/")
        # Not through a link at its end, such as systemd's: that would lead into /run.
        found.append(Place(f"{view.resolve(up)}/{name}", False))
    targets = []
    for path, is_folder in volumes:
        try:
            target = path.strip("/") if path.strip("/") in FILES else view.resolve(path)
        except OSError as e:
            raise ContainerError(f"`{path}` cannot be mounted upon: {e.strerror}") from e
        here = view.lstat(target)
        if not target or target in _FOLDERS or (here and stat.S_ISDIR(here[1].st_mode) != is_folder):
            what = "a folder upon a file" if is_folder else "a file upon a folder"
            raise ContainerError(f"`{path}` cannot be mounted upon: it would put {what}")
        if target not in (place.path for place in found):
            found.append(Place(target, is_folder))
        targets.append(target)
    return found, targets


def single_id(view: View) -> list[Place]:
    """Return what a root needs where there is one id only: apt fetches as root, for it can become nobody else.

    Like all of the scaffold it is never in the upper folder.
    """
    folder = view.resolve(_APT)
    if view.lstat(folder) is None:
        return []
    return [Place(f"{folder}/00mkroot", False, b'APT::Sandbox::User "root";\n')]


def scaffold(folder: Path, view: View, wanted: Sequence[Place]) -> Path:
    """Make a layer that holds what is mounted upon and return it: so nothing of it comes into the upper folder.

    Its folders are like the image's own, which it covers: mode, owner, attributes and time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    made: dict[str, os.stat_result] = {}
    _like(view, "", folder, made)
    for place in wanted:
        parts = place.path.split("/")
        for count in range(1, len(parts) + place.is_folder):
            path = "/".join(parts[:count])
            if path not in made:
                (folder / path).mkdir(mode=0o755, exist_ok=True)
                _like(view, path, folder / path, made)
        if not place.is_folder:
            (folder / place.path).write_bytes(place.content)
            os.chmod(folder / place.path, 0o644)
    for path in sorted(made, reverse=True):
        os.utime(folder / path, ns=(made[path].st_atime_ns, made[path].st_mtime_ns))
    return folder


def _like(view: View, path: str, at: Path, made: dict[str, os.stat_result]) -> None:
    """Make a folder like that which the union has there, if it has one."""
    found = view.lstat(path)
    if found is None:
        made[path] = os.stat(at)
        os.chmod(at, 0o755)
        return
    source, st = found
    if not stat.S_ISDIR(st.st_mode):
        raise ContainerError(f"`/{path}` cannot be mounted in: it is not a folder in the image")
    made[path] = st
    with contextlib.suppress(OSError):  # the owner is this user's only one
        os.chown(at, st.st_uid, st.st_gid)
    os.chmod(at, stat.S_IMODE(st.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(("trusted.overlay.", "user.overlay.", "security.selinux")):
            with contextlib.suppress(OSError):
                os.setxattr(at, name, os.getxattr(source, name))


def mount(folder: Path, lowers: Sequence[Path], identity: Identity) -> Union:
    """Mount the union at `merged` in a container's folder; raises ContainerError where no overlay is to be had."""
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # what was not unmounted left a mark that overlayfs refuses ("volatile")
    union = mount_union(
        folder / "merged", lowers, folder / "upper", work, namespaced=identity.namespaced, tops=lowers[1:]
    )
    if not union.mounted or union.in_memory:
        why = union.why_not or "the store lies on a file system that no overlay can write to"
        raise ContainerError(
            f"a container cannot be run here: {why}",
            hint="`mkroot doctor` tells what this host allows; MKROOT_STORE may name a folder on another file system",
        )
    return union
