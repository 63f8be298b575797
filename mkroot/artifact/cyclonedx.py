"""Writes a bill of materials as CycloneDX 1.6 JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import mkroot
from mkroot.artifact.sbom import TOOL, Bill, BillPackage, canonical


def write_cyclonedx(bill: Bill) -> bytes:
    """Return the document (CycloneDX 1.6); the same bill gives the same bytes."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import LicenseExpression
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    def component(row: BillPackage) -> Component:
        p = row.package
        properties = [("mkroot:source", p.source), ("mkroot:source-version", p.source_version)]
        return Component(
            name=p.name,
            version=p.version,
            type=ComponentType.LIBRARY,
            bom_ref=row.purl,
            purl=PackageURL.from_string(row.purl),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=p.sha256)] if p.sha256 else None,
            licenses=[LicenseExpression(" AND ".join(row.licences))] if row.licences else None,
            properties=[Property(name=name, value=value) for name, value in properties if value],
        )

    system = Component(
        name=bill.name,
        version=bill.version or None,
        type=ComponentType.OPERATING_SYSTEM,
        bom_ref="system",
        properties=[
            Property(name="mkroot:distro", value=bill.distro),
            Property(name="mkroot:suite", value=bill.suite),
            Property(name="mkroot:architecture", value=bill.architecture),
            Property(name="mkroot:digest", value=bill.digest),
        ],
    )
    tool = Component(name=TOOL, version=mkroot.__version__, type=ComponentType.APPLICATION, bom_ref=TOOL)
    metadata = BomMetaData(timestamp=datetime.fromtimestamp(bill.epoch, UTC), component=system)
    metadata.tools.components.add(tool)
    bom = Bom(serial_number=bill.identity, metadata=metadata, components=[component(row) for row in bill.packages])
    bom.register_dependency(system, list(bom.components))
    return canonical(json.loads(JsonV1Dot6(bom).output_as_string()))
