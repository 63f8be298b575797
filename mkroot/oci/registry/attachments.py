"""What goes along with a pushed image: its bill of materials, and the record of its build where the store has one."""

from __future__ import annotations

from mkroot.artifact.provenance import FILE_NAME, MEDIA_TYPE
from mkroot.artifact.spdx import write_spdx
from mkroot.oci.bill import image_bill
from mkroot.oci.layout import Layout
from mkroot.oci.model import Descriptor
from mkroot.oci.registry.referrers import Artifact, make_artifact
from mkroot.oci.store import load_image, platforms_of
from mkroot.records import recall
from mkroot.store.store import Store

SPDX = "application/spdx+json"


def attachments(store: Store, layout: Layout, descriptor: Descriptor, name: str) -> list[Artifact]:
    """Return the artifacts of an image, or of every image of an index; raises ImageError, StoreError.

    name: what the bill calls the image, its repository. The record is the very file that stands beside the build's
    artifacts, `provenance.json`. The same image gives the same bytes.
    """
    found = []
    for child in platforms_of(layout, descriptor):
        image = load_image(layout, child)
        created = image.config.created
        found.append(make_artifact(child, SPDX, "sbom.spdx.json", write_spdx(image_bill(layout, image, name)), created))
        record = recall(store, image.digest)
        if record is not None and record.provenance:
            found.append(make_artifact(child, MEDIA_TYPE, FILE_NAME, record.provenance, created))
    return found
