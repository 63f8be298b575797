"""Writes a bill of materials as SPDX 2.3 JSON."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import mkroot
from mkroot.artifact.licences import REFERENCE
from mkroot.artifact.sbom import TOOL, Bill, BillPackage, canonical

NONE = "NOASSERTION"
ROOT = "SPDXRef-System"


def write_spdx(bill: Bill) -> bytes:
    """Return the document (SPDX 2.3, clauses 6 to 11); the same bill gives the same bytes."""
    created = datetime.fromtimestamp(bill.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    references = sorted({i for p in bill.packages for i in p.licences if i.startswith(REFERENCE)})
    ids = _identifiers(bill)
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bill.name,
        "documentNamespace": f"urn:uuid:{bill.identity}",
        "creationInfo": {"created": created, "creators": [f"Tool: {TOOL}-{mkroot.__version__}"]},
        "packages": [_system(bill), *(_package(p, ids[number]) for number, p in enumerate(bill.packages))],
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": ROOT},
            *(
                {"spdxElementId": ROOT, "relationshipType": "CONTAINS", "relatedSpdxElement": ids[number]}
                for number in range(len(bill.packages))
            ),
        ],
    }
    if references:
        document["hasExtractedLicensingInfos"] = [_reference(r) for r in references]
    return canonical(document)


def _identifiers(bill: Bill) -> list[str]:
    found = []
    for p in bill.packages:
        text = f"{p.package.name}-{p.package.architecture}-{p.package.version}"
        found.append("SPDXRef-Package-" + re.sub(r"[^A-Za-z0-9.-]", lambda m: f"-{ord(m[0]):x}-", text))
    return found


def _system(bill: Bill) -> dict[str, Any]:
    system: dict[str, Any] = {
        "SPDXID": ROOT,
        "name": bill.name,
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "licenseConcluded": NONE,
        "licenseDeclared": NONE,
        "copyrightText": NONE,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "comment": f"{bill.distro} {bill.suite} {bill.architecture}, {bill.digest}",
    }
    if bill.version:
        system["versionInfo"] = bill.version
    return system


def _package(row: BillPackage, identifier: str) -> dict[str, Any]:
    p = row.package
    found: dict[str, Any] = {
        "SPDXID": identifier,
        "name": p.name,
        "versionInfo": p.version,
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "licenseConcluded": NONE,
        "licenseDeclared": " AND ".join(row.licences) or NONE,
        "copyrightText": NONE,
        "primaryPackagePurpose": "LIBRARY" if p.name.startswith("lib") else "APPLICATION",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": row.purl}
        ],
    }
    if p.source:
        found["sourceInfo"] = f"built from the source package {p.source} {p.source_version}".rstrip()
    if p.sha256:
        found["checksums"] = [{"algorithm": "SHA256", "checksumValue": p.sha256}]
    return found


def _reference(identifier: str) -> dict[str, str]:
    name = identifier.removeprefix(REFERENCE)
    return {
        "licenseId": identifier,
        "name": name,
        "extractedText": f"The licence that /usr/share/doc/PACKAGE/copyright calls {name}; its text stands there.",
    }
