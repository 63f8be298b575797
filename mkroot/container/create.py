"""Makes a container of an image: its layers unpacked, its record and folder in the store, nothing run yet."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from mkroot.container.name import check_name, make_name
from mkroot.container.record import SHORT, Container, Containers, Settings, new_id
from mkroot.container.union import layer_keys
from mkroot.container.wish import settle
from mkroot.errors import ContainerError
from mkroot.oci.model import Execution
from mkroot.oci.store import Image, ImageStore
from mkroot.rootfs.identity import Identity
from mkroot.store.store import Store

# What a processor runs beside its own, in Go's words: uname's machine, and the architectures.
_NATIVE = {"x86_64": ("amd64", "386"), "aarch64": ("arm64", "arm"), "i686": ("386",), "armv7l": ("arm",)}
_BINFMT = "/proc/sys/fs/binfmt_misc"
_QEMU = {"amd64": "x86_64", "arm64": "aarch64", "386": "i386", "ppc64le": "ppc64le"}


def create(
    store: Store,
    identity: Identity,
    image: Image,
    reference: str,
    *,
    settings: Settings,
    environment: Mapping[str, str],
    command: Sequence[str],
    name: str = "",
    term: str = "",
) -> Container:
    """Return a new container of an image, whole in the store; raises ContainerError, ImageError, StoreError.

    settings: what the command line says (`mkroot.container.wish.settle`). environment: its variables. command: the
    words after the image. name: "" for one that is made up. term: the user's own TERM.
    """
    if not identity.can_mount:
        raise ContainerError(f"a container cannot be run: {identity.reason}", hint=identity.hint)
    check_architecture(image, reference)
    container_id = new_id()
    if name:
        check_name(name)
    given = replace(settings, hostname=settings.hostname or container_id[:SHORT])
    argv, settled = settle(given, environment, command, image.config.config or Execution(), term)
    containers = Containers(store)
    images = ImageStore(store)
    # `prune` and `rmi` wait until the record names layers and image
    with store.lock("store", "in-use", shared=True), images.using():
        images.held(image.digest)  # it may have gone since it was found
        layers = layer_keys(store, images, image, identity)
        container = Container(
            id=container_id,
            name=name or make_name({c.name for c in containers.list()}),
            image=image.digest,
            reference=reference,
            created=int(time.time()),
            command=argv,
            layers=layers,
            settings=settled,
            identity=identity.tag,
        )
        containers.create(container)
    return container


def check_architecture(image: Image, reference: str) -> None:
    """Raise ContainerError where this host cannot run the image's programs."""
    wanted, machine = image.config.architecture, platform.machine()
    if wanted in _NATIVE.get(machine, (machine,)):
        return
    emulator = f"qemu-{_QEMU.get(wanted, wanted)}"
    if not os.path.exists(f"{_BINFMT}/{emulator}"):
        raise ContainerError(
            f"the image `{reference}` is for {wanted}, and this host ({machine}) cannot run its programs",
            hint="install an emulator that the kernel starts by itself (`qemu-user-static`), or take an image for "
            "this host",
        )
