"""`mkroot inspect`: show an image's config, layers and tags, or a container's record."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.container.record import Container, Containers
    from mkroot.oci.store import Image, ImageStore


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "inspect",
        help="show an image's config, layers and tags, or a container's record",
        description="Show images and containers as JSON, in the words that `docker inspect` uses. A container's name "
        "or id wins over an image's.",
    )
    parser.add_argument(
        "references", nargs="+", metavar="REF|ID", help="an image or a container: name, digest, or beginning of an id"
    )
    parser.add_argument("--type", choices=("image", "container"), help="look for nothing else")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.add_argument("--verify", action="store_true", help="read every blob and check digests, sizes and diff-ids")
    parser.add_argument("--json", action="store_true", help="the output is always JSON")
    parser.set_defaults(run=run)


def the_image(reference: str, arch: str | None) -> tuple[ImageStore, Image]:
    """Return the store and the image that a reference names, of an index the one for `arch` or this machine.

    Raises ImageError where there is none.
    """
    from mkroot.cli.images import image_store
    from mkroot.errors import ImageError

    images = image_store()
    wanted = architecture_of(arch)
    image = images.load(images.find(reference, wanted))
    if arch is not None and image.config.architecture != wanted:
        raise ImageError(f"the image `{reference}` is for {image.config.architecture}, not for {wanted}")
    return images, image


def architecture_of(arch: str | None) -> str:
    """Return an architecture in Go's words, this machine's where none is given; raises ImageError."""
    import platform

    from mkroot.errors import ImageError
    from mkroot.oci.model import PLATFORMS

    if arch is None:
        machine = platform.machine()
        return {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}.get(machine, machine)
    if arch not in PLATFORMS:
        raise ImageError(f"`--arch {arch}`: no such architecture", hint=f"one of {', '.join(sorted(PLATFORMS))}")
    return PLATFORMS[arch][0]


def run(args: argparse.Namespace) -> int:
    """Show them; 0, or 1 where one is not there or `--verify` finds a fault."""
    import json

    from mkroot.cli.images import image_store
    from mkroot.container.record import Containers

    found = []
    containers = Containers(image_store().store)
    for reference in args.references:
        if args.type == "container" or (args.type is None and means(containers, reference)):
            found.append(_container(containers, containers.find(reference)))
            continue
        images, image = the_image(reference, args.arch)
        if args.verify:
            from mkroot.oci.validate import verify

            verify(images.layout(), image.descriptor)
        found.append(_image(images, image))
    json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


def means(containers: Containers, word: str) -> bool:
    """Tell whether a word is a container's name, or begins the ids of one or more."""
    return any(word == c.name or c.id.startswith(word) for c in containers.list())


def _image(images: ImageStore, image: Image) -> dict[str, object]:
    """Return an image in the words of `docker inspect`."""
    import msgspec

    from mkroot.oci.validate import compression_of

    config = image.config
    return {
        "Id": image.id,
        "Digest": image.digest,
        "RepoTags": list(images.references(image.digest)),
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": sum(layer.size for layer in image.manifest.layers),
        "Config": msgspec.to_builtins(config.config) if config.config else {},
        "RootFS": {"Type": config.rootfs.type, "Layers": list(config.rootfs.diff_ids)},
        "Layers": [
            {
                "Digest": layer.digest,
                "Size": layer.size,
                "MediaType": layer.media_type,
                "Compression": compression_of(layer),
                "Annotations": layer.annotations,
                "DiffId": diff_id,
            }
            for layer, diff_id in zip(image.manifest.layers, config.rootfs.diff_ids, strict=True)
        ],
        "Annotations": image.manifest.annotations,
        "Referrers": _referrers(images, image.digest),
    }


def _referrers(images: ImageStore, digest: str) -> list[dict[str, object]]:
    """Return the artifacts that belong to an image, such as its bill of materials, and where their files are."""
    from mkroot.oci.registry.referrers import TITLE, attached

    rows: list[dict[str, object]] = []
    for one in attached(images.store, digest):
        files = {d.annotations.get(TITLE, d.hex): str(one.folder / d.hex) for d in one.manifest.layers}
        rows.append({"Digest": one.digest, "ArtifactType": one.kind, "Files": files})
    return rows


def _container(containers: Containers, container: Container) -> dict[str, object]:
    """Return a container in the words of `docker inspect`."""
    from mkroot.container.record import RUNNING
    from mkroot.oci.model import timestamp

    settings = container.settings
    path, *words = container.command or ("",)
    return {
        "Id": container.id,
        "Name": container.name,
        "Created": timestamp(container.created),
        "Path": path,
        "Args": words,
        "State": {
            "Status": container.status,
            "Running": container.status == RUNNING,
            "Pid": container.init.pid if container.init else 0,
            "ExitCode": container.exit_code,
            "StartedAt": timestamp(container.started) if container.started else "",
            "FinishedAt": timestamp(container.finished) if container.finished else "",
        },
        "Image": container.image,
        "LogPath": str(containers.log(container)),
        "Config": {
            "Image": container.reference,
            "Hostname": settings.hostname,
            "User": settings.user,
            "Env": list(settings.env),
            "WorkingDir": settings.workdir,
            "Entrypoint": None if settings.entrypoint is None else list(settings.entrypoint),
            "Tty": settings.tty,
            "OpenStdin": settings.interactive,
            "StopSignal": settings.stop_signal,
        },
        "HostConfig": {
            "Binds": list(settings.volumes),
            "NetworkMode": settings.network,
            "ReadonlyRootfs": settings.read_only,
            "Memory": settings.memory,
            "AutoRemove": settings.remove,
        },
        "GraphDriver": {"Name": "overlay", "Data": {"UpperDir": str(containers.upper(container))}},
    }
