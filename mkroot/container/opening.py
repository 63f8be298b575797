"""A container's root, or an image's, as an open folder: while it runs its own, else the union of its layers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mkroot.container.record import RUNNING, Container, Containers
from mkroot.container.union import layer_keys, lowers_of, mount, trees_of
from mkroot.errors import ContainerError
from mkroot.oci.store import Image, ImageStore
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.union import mount_union, unmount
from mkroot.store.store import Store

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def running_root(container: Container) -> int | None:
    """Return an open descriptor of a running container's root, its mounts included; None where it does not run.

    It is to be called before `assume`: whoever made the namespaces may look in from outside, not from a sibling.
    Raises ContainerError.
    """
    if container.status != RUNNING or container.init is None:
        return None
    try:
        return os.open(f"/proc/{container.init.pid}/root", _FOLDER)
    except OSError as e:
        raise ContainerError(
            f"the root of the container {container.name} cannot be opened: {e.strerror}",
            hint="it may belong to another user, or have ended just now",
        ) from e


@contextlib.contextmanager
def writable(store: Store, containers: Containers, container: Container, identity: Identity) -> Iterator[int]:
    """Yield an open descriptor of the root of a container that does not run; what is written there is the container's.

    Raises ContainerError where it is in use, belongs to another user, or no union is to be had.
    """
    check_owner(container, identity)
    with containers.lock(container):
        lowers = lowers_of(trees_of(store, identity), container.layers)
        # A folder that the container has from its image alone: `mount` takes all but the first for a top.
        with tempfile.TemporaryDirectory(dir=store.root / "tmp", prefix="bare.") as bare:
            os.chmod(bare, 0o755)
            union = mount(containers.folder(container), [Path(bare), *lowers], identity)
            try:
                fd = os.open(union.at, _FOLDER)
                try:
                    yield fd
                finally:
                    os.close(fd)
            finally:
                unmount(union)


@contextlib.contextmanager
def readable(store: Store, lowers: Sequence[Path], identity: Identity) -> Iterator[int]:
    """Yield an open descriptor of the union of folders, the topmost first; nothing is written to any of them.

    Raises ContainerError where no union is to be had.
    """
    with tempfile.TemporaryDirectory(dir=store.root / "tmp", prefix="view.", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        union = mount_union(
            folder / "at", lowers, folder / "upper", folder / "work", namespaced=identity.namespaced, tops=lowers
        )
        if not union.mounted:
            raise ContainerError(
                f"the root cannot be put together here: {union.why_not}",
                hint="`mkroot doctor` tells what this host allows",
            )
        try:
            fd = os.open(union.at, _FOLDER)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            unmount(union)


def folders_of(store: Store, containers: Containers, container: Container, identity: Identity) -> list[Path]:
    """Return the folders of a container's root, its own the first; raises ContainerError."""
    check_owner(container, identity)
    return [containers.upper(container), *lowers_of(trees_of(store, identity), container.layers)]


def image_folders(store: Store, images: ImageStore, image: Image, identity: Identity) -> list[Path]:
    """Return the folders of an image's root, the topmost first, unpacked where they are not; raises ImageError."""
    return lowers_of(trees_of(store, identity), layer_keys(store, images, image, identity))


def check_owner(container: Container, identity: Identity) -> None:
    """Raise ContainerError where what a container wrote has the owners of another identity."""
    if container.identity != identity.tag:
        raise ContainerError(
            f"the container {container.name} belongs to another user, or was made with other ids",
            hint="use it as the one who made it",
        )
