"""What goes along with a pushed image: its bill of materials, and the record of its build where the store has one."""

from __future__ import annotations

import msgspec

from mkroot.artifact.sbom import canonical
from mkroot.artifact.spdx import write_spdx
from mkroot.oci.bill import image_bill
from mkroot.oci.layout import Layout
from mkroot.oci.model import Descriptor
from mkroot.oci.registry.referrers import Artifact, make_artifact
from mkroot.oci.store import Image, load_image, platforms_of
from mkroot.records import recall
from mkroot.store.store import Store

SPDX = "application/spdx+json"
RECORD = "application/vnd.mkroot.build.v1+json"


def attachments(store: Store, layout: Layout, descriptor: Descriptor, name: str) -> list[Artifact]:
    """Return the artifacts of an image, or of every image of an index; raises ImageError, StoreError.

    name: what the bill calls the image, its repository. The same image gives the same bytes.
    """
    found = []
    for child in platforms_of(layout, descriptor):
        image = load_image(layout, child)
        created = image.config.created
        found.append(make_artifact(child, SPDX, "sbom.spdx.json", write_spdx(image_bill(layout, image, name)), created))
        if record := _record(store, image):
            found.append(make_artifact(child, RECORD, "build.json", record, created))
    return found


def _record(store: Store, image: Image) -> bytes | None:
    """Return what the image was built from: the lock, and how it was configured; nothing of this machine."""
    record = recall(store, image.digest)
    if record is None:
        return None
    return canonical(
        {
            "version": 1,
            "image": image.digest,
            "architecture": record.architecture,
            "configure": "scripts" if record.scripts else "static",
            "lock": msgspec.json.decode(record.lock),
        }
    )
