"""Licences of packages, from the machine-readable copyright files that they carry (DEP 5, copyright-format 1.0)."""

from __future__ import annotations

import re

from mkroot.debian.deb822 import parse_stanza, stanzas

_KNOWN = {  # copyright-format 1.0, "License specification", short names; and names seen in many packages
    "apache-2.0": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "artistic-2.0": "Artistic-2.0",
    "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "bsl-1.0": "BSL-1.0", "cc0-1.0": "CC0-1.0", "cc0": "CC0-1.0", "cc-by-3.0": "CC-BY-3.0", "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "expat": "MIT", "mit": "MIT", "isc": "ISC",
    "0bsd": "0BSD", "zlib": "Zlib", "unlicense": "Unlicense", "wtfpl": "WTFPL", "mpl-1.1": "MPL-1.1",
    "mpl-2.0": "MPL-2.0", "openssl": "OpenSSL", "psf-2": "PSF-2.0", "python-2.0": "Python-2.0", "w3c": "W3C",
    "curl": "curl", "ftl": "FTL", "ijg": "IJG", "libpng": "Libpng", "bzip2": "bzip2-1.0.6", "x11": "X11",
    "gfdl-1.1": "GFDL-1.1-only", "gfdl-1.2": "GFDL-1.2-only", "gfdl-1.3": "GFDL-1.3-only",
    "gfdl-1.1+": "GFDL-1.1-or-later", "gfdl-1.2+": "GFDL-1.2-or-later", "gfdl-1.3+": "GFDL-1.3-or-later",
    "gfdl-niv-1.3+": "GFDL-1.3-no-invariants-or-later", "gfdl-niv-1.2+": "GFDL-1.2-no-invariants-or-later",
}  # fmt: skip
_GNU = re.compile(r"(a?gpl|lgpl)-([1-3](?:\.[01])?)(\+?)", re.IGNORECASE)
_VERSIONS = {"1": "1.0", "2": "2.0", "3": "3.0"}
_EXPRESSION = re.compile(r"\s*(,|\(|\)|\band/or\b|\band\b|\bor\b|\bwith\b|[^\s,()]+)\s*", re.IGNORECASE)
REFERENCE = "LicenseRef-debian-"


def licence_id(name: str) -> str:
    """Return the SPDX identifier of a short name, or one of the form `LicenseRef-debian-NAME` where there is none."""
    if known := _KNOWN.get(name.lower()):
        return known
    if m := _GNU.fullmatch(name):
        version = _VERSIONS.get(m[2], m[2])
        if (m[1].upper(), version) in _GNU_VERSIONS:
            return f"{m[1].upper()}-{version}-{'or-later' if m[3] else 'only'}"
    return REFERENCE + (re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-") or "unnamed")


_GNU_VERSIONS = {
    ("GPL", "1.0"), ("GPL", "2.0"), ("GPL", "3.0"), ("LGPL", "2.0"), ("LGPL", "2.1"), ("LGPL", "3.0"),
    ("AGPL", "1.0"), ("AGPL", "3.0"),
}  # fmt: skip


def licences(copyright_file: bytes) -> tuple[str, ...]:
    """Return the licences that a copyright file names, as SPDX identifiers; none where it is not machine-readable.

    Which file is under which licence, and choices between licences, are not kept: the list says which licences occur.
    """
    parts = [parse_stanza(s) for s in stanzas(copyright_file)]
    if not parts or "copyright-format" not in parts[0].get("format", parts[0].get("format-specification", "")):
        return ()
    found: set[str] = set()
    for part in parts:
        if "files" not in part and part is not parts[0]:
            continue
        line = part.get("license", "").split("\n", 1)[0].strip()
        words = [w for w in _EXPRESSION.findall(line) if w.lower() not in (",", "(", ")", "and", "or", "and/or")]
        skip = False
        for word in words:
            if word.lower() == "with":  # an exception's words follow, up to the end: they are of the licence's text
                skip = True
            if not skip:
                found.add(licence_id(word))
    return tuple(sorted(found))
