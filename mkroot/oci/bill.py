"""The bill of materials of an image: what its own package database and copyright files say."""

from __future__ import annotations

from mkroot.artifact.sbom import Bill, make_bill, os_release
from mkroot.oci.inventory import read_image
from mkroot.oci.layout import Layout
from mkroot.oci.model import seconds
from mkroot.oci.store import Image


def image_bill(layout: Layout, image: Image, name: str) -> Bill:
    """Return the bill of an image that is called `name`; the same image gives the same. Raises ImageError."""
    inventory = read_image(layout, image.descriptor)
    release = os_release(inventory.texts)
    return make_bill(
        name=name,
        version=release.get("VERSION_ID", ""),
        architecture=image.config.architecture,
        distro=release.get("ID", "debian"),
        suite=release.get("VERSION_CODENAME", ""),
        epoch=seconds(image.config.created),
        digest=image.digest,
        packages=inventory.packages.values(),
        texts=inventory.texts,
    )
