"""Makes a container of an image: its layers unpacked, its record and folder in the store, nothing run yet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from mkroot.container.name import check_name, make_name
from mkroot.container.record import SHORT, Container, Containers, Settings, new_id
from mkroot.container.union import layer_keys
from mkroot.container.wish import settle
from mkroot.errors import ContainerError
from mkroot.oci.layers import debian_architecture
from mkroot.oci.model import Execution
from mkroot.oci.store import Image, ImageStore
from mkroot.rootfs import foreign
from mkroot.rootfs.identity import Identity
from mkroot.store.store import Store


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
    architecture = checked_architecture(image, reference)
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
            architecture=architecture,
        )
        containers.create(container)
    return container


def checked_architecture(image: Image, reference: str) -> str:
    """Return an image's architecture by Debian's name; raises ContainerError where its programs do not run here."""
    architecture = debian_architecture(image)
    if architecture == foreign.native():
        return architecture
    way = foreign.how(architecture)
    if isinstance(way, foreign.Missing):
        raise ContainerError(
            f"the image `{reference}` is for {image.config.architecture}, and its programs do not run here: {way.why}",
            hint=f"{way.hint}, or take an image for `{foreign.native()}`",
        )
    return architecture
