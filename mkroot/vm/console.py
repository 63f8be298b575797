"""The console as evidence: its text without a terminal's escapes, and the stages of a start as they show on it."""

from __future__ import annotations

import codecs
import re

import msgspec

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")  # ECMA-48, 5.3, 5.4
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_KEPT = 8 << 20  # characters; a guest that talks without end is cut at its beginning
PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_STAGES = (
    ("firmware", re.compile(r"(SeaBIOS) \(version (\S+)\)|(BdsDxe): |(UEFI) firmware")),
    ("loader", re.compile(r"(systemd-boot)|Welcome to (GRUB)|(GRUB) loading|(EFI stub): ")),
    ("kernel", re.compile(r"(Linux version \S+)|(Booting Linux) on physical CPU")),
    ("init", re.compile(r"Run (\S+) as init process")),
    ("userspace", re.compile(r"systemd\[1\]: (systemd \S+).* running in system mode")),
)
_LOGIN = re.compile(r"\blogin: ?$")
_INITRAMFS = re.compile(r"mkroot-init: (.*)")


class Stage(msgspec.Struct, frozen=True):
    """A step of a start. seconds: since QEMU was started. note: what showed it."""

    name: str
    seconds: float
    note: str


class Console:
    """Takes what a guest writes, piece by piece, with the time at which it came."""

    def __init__(self) -> None:
        self.text = ""
        self.stages: list[Stage] = []
        self.last = 0.0
        self.panic = ""
        self.panicked = 0.0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""  # raw, not ended
        self._seen: set[str] = set()
        self._done = ""  # cleaned text of the ended lines

    def feed(self, data: bytes, seconds: float) -> None:
        """Take bytes that came at a time in seconds since the start."""
        if not data:
            return
        self.last = seconds
        *ended, self._line = (self._line + self._decoder.decode(data)).split("\n")
        lines = [clean(raw) for raw in ended]
        for line in lines:
            self._look(line, seconds)
        self._done += "".join(line + "\n" for line in lines)
        if len(self._done) > 2 * _KEPT:
            self._done = self._done[-_KEPT:]
        rest = clean(self._line)
        if "login" not in self._seen and _LOGIN.search(rest):  # the one line that waits for its end
            self._note("login", seconds, "")
        self.text = self._done + rest

    def shows(self, text: str) -> bool:
        """Tell whether a text has come."""
        return text in self.text

    @property
    def alive(self) -> bool:
        """Tell whether the kernel or what it started has spoken; firmware alone is no proof of a working guest."""
        return any(s.name not in ("firmware", "loader") for s in self.stages)

    def _look(self, line: str, seconds: float) -> None:
        if not self.panic and (found := PANIC.search(line)):
            self.panic, self.panicked = found[1].strip() or "without a word", seconds
        if (found := _INITRAMFS.search(line)) and found[0] not in self._seen:
            self._seen.add(found[0])
            self.stages.append(Stage("initramfs", seconds, found[1].strip()))
        for name, pattern in _STAGES:
            if name not in self._seen and (found := pattern.search(line)):
                self._note(name, seconds, " ".join(g for g in found.groups() if g))

    def _note(self, name: str, seconds: float, note: str) -> None:
        self._seen.add(name)
        self.stages.append(Stage(name, seconds, note))


def clean(line: str) -> str:
    """Return a line without escapes, carriage returns and other signs that a terminal does not show."""
    return _UNSEEN.sub("", _ESCAPE.sub("", line))


def tail(text: str, lines: int) -> str:
    """Return the last lines of a text that say something."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
