"""SOURCE_DATE_EPOCH: the date that no file in an output is younger than. This module alone reads it."""

from __future__ import annotations

from collections.abc import Mapping

from mkroot.errors import UsageError


def source_date(environ: Mapping[str, str]) -> int | None:
    """Return SOURCE_DATE_EPOCH in seconds, None where it is not set; raises UsageError."""
    text = environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) > 0xFFFFFFFF:
        raise UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds since 1970: {text[:40]!r}")
    return int(text)
