"""What the guest is asked, and what it answers: the self-check's script and its verdict line."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mkroot.recipe.booting import Check

SMBIOS = "io.systemd.credential.binary:mkroot.check="  # systemd.system-credentials(7)
WORD = "mkroot.check="
MOST = 40_000  # bytes of a script: with base64, below the 64 KiB of an SMBIOS 2.1 table


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A command that the guest ran. seconds: how long. output: its end."""

    command: str
    wanted: int
    status: int
    seconds: float
    output: str

    @property
    def good(self) -> bool:
        """Tell whether it ended as it should."""
        return self.status == self.wanted


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest said of itself.

    state: of `systemctl is-system-running`, "" without systemd. failed: units that failed. ready, uptime: seconds
    since its kernel began, when the system was up and at the end. memory, available: bytes, 0 where not known. boot:
    what mkroot's initramfs left. mounted: folders that a boot file system is mounted on. analyze: systemd-analyze's
    own times.
    """

    commands: tuple[Ran, ...]
    state: str
    failed: tuple[str, ...]
    ready: float
    uptime: float
    memory: int
    available: int
    boot: dict[str, str]
    mounted: tuple[str, ...]
    analyze: str


def script(nonce: str, port: str, linger: int, run: Sequence[Check]) -> str:
    """Return the shell script for the guest.

    nonce: a secret of this run, without which a line is no verdict. port: the guest's second serial port. linger:
    seconds to stay up after the verdict, for text that the console is still to show.
    """
    own = (Path(__file__).parent / "check.sh").read_text("utf-8")
    lines = [line.strip() for line in own.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    asked = [f"check {c.exit} {shlex.quote(str(c.cmd))}" for c in run]
    return "\n".join([f"nonce={nonce}", f"port={port}", f"linger={linger}", *lines, *asked, "tell", "off", ""])


def credential(text: str) -> str:
    """Return a script as a firmware's string carries it."""
    return base64.b64encode(text.encode()).decode()


def packed(text: str) -> str:
    """Return a script as short as a kernel's command line needs it."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def begins(line: str, nonce: str) -> bool:
    """Tell whether a line of the verdict port says that the check has begun."""
    return line.strip() == f"mkroot-check {nonce} begins"


def verdict(line: str, nonce: str, run: Sequence[Check]) -> Told | None:
    """Return what the guest told by a line of the verdict port; None where it is no verdict of this run."""
    head = f"mkroot-verdict {nonce} "
    if not line.startswith(head):
        return None
    try:
        value = json.loads(line[len(head) :])
        commands = tuple(_ran(c, asked) for c, asked in zip(value["commands"], run, strict=True))
        memory = _text(value["memory"])
        boot = [row.partition("=") for row in _text(value["boot"]).splitlines() if "=" in row]
        return Told(
            commands=commands,
            state=str(value["state"]),
            failed=tuple(row.split(" ", 1)[0] for row in _text(value["failed"]).splitlines() if row.strip()),
            ready=float(value["ready"]),
            uptime=float(value["uptime"]),
            memory=_kib(memory, "MemTotal"),
            available=_kib(memory, "MemAvailable"),
            boot={name: rest for name, _, rest in boot},
            mounted=tuple(_mounted(_text(value["mounts"]))),
            analyze=_text(value["analyze"]).strip(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _ran(value: Any, asked: Check) -> Ran:
    return Ran(
        command=str(asked.cmd),
        wanted=asked.exit,
        status=int(value["status"]),
        seconds=round(float(value["to"]) - float(value["from"]), 2),
        output=_text(value["out"]),
    )


def _text(value: str) -> str:
    return base64.b64decode(value, validate=True).decode("utf-8", "replace")


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _mounted(mounts: str) -> list[str]:
    """Return the folders of /proc/mounts' lines; systemd's automount points hold nothing until somebody looks."""
    rows = [row.split(" ") for row in mounts.splitlines()]
    return [row[1] for row in rows if len(row) > 2 and row[2] != "autofs"]
