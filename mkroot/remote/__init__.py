"""The store's second floor: a repository of an OCI registry, through which machines share what they made."""

from __future__ import annotations

from mkroot.remote.account import Settings, settings
from mkroot.remote.attaching import attached, remote_of, result
from mkroot.remote.machine import machine_id
from mkroot.remote.probe import check

__all__ = ["Settings", "attached", "check", "machine_id", "remote_of", "result", "settings"]
