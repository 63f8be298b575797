"""`mkroot inspect`: show an image's config, layers and tags."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.store import Image, ImageStore


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "inspect",
        help="show an image's config, layers and tags",
        description="Show images as JSON, in the words that `docker inspect` uses.",
    )
    parser.add_argument("references", nargs="+", metavar="REF", help="name:tag, digest, or the beginning of an id")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.add_argument("--verify", action="store_true", help="read every blob and check digests, sizes and diff-ids")
    parser.add_argument("--json", action="store_true", help="the output is always JSON")
    parser.set_defaults(run=run)


def the_image(reference: str, arch: str | None) -> tuple[ImageStore, Image]:
    """Return the store and the image that a reference names, of an index the one for `arch` or this machine.

    Raises ImageError where there is none.
    """
    import os
    import platform

    from mkroot.errors import ImageError
    from mkroot.oci.model import PLATFORMS
    from mkroot.oci.store import ImageStore
    from mkroot.store.store import Store, default_root

    images = ImageStore(Store(default_root(dict(os.environ))))
    if arch is None:
        machine = platform.machine()
        wanted = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}.get(machine, machine)
    elif arch in PLATFORMS:
        wanted = PLATFORMS[arch][0]
    else:
        raise ImageError(f"`--arch {arch}`: no such architecture", hint=f"one of {', '.join(sorted(PLATFORMS))}")
    image = images.load(images.find(reference, wanted))
    if arch is not None and image.config.architecture != wanted:
        raise ImageError(f"the image `{reference}` is for {image.config.architecture}, not for {wanted}")
    return images, image


def run(args: argparse.Namespace) -> int:
    """Show the images; 0, or 1 where one is not there or `--verify` finds a fault."""
    import json

    import msgspec

    found = []
    for reference in args.references:
        images, image = the_image(reference, args.arch)
        if args.verify:
            from mkroot.oci.validate import verify

            verify(images.layout(), image.descriptor)
        config = image.config
        row: dict[str, object] = {
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
                {"Digest": layer.digest, "Size": layer.size, "MediaType": layer.media_type, "DiffId": diff_id}
                for layer, diff_id in zip(image.manifest.layers, config.rootfs.diff_ids, strict=True)
            ],
            "Annotations": image.manifest.annotations,
        }
        found.append(row)
    json.dump(found, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0
