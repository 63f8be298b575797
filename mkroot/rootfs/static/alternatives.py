"""Alternatives without scripts: reads `update-alternatives --install` in postinst scripts where it stands plainly."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

import msgspec

from mkroot.rootfs.recorder import Recorder
from mkroot.store.layer import Layer
from mkroot.tar.entry import SYMLINK

ALTERNATIVES = "etc/alternatives"
_CALL = re.compile(r"(?:^|[\s;&|(])(?:/usr/(?:s?bin)/)?update-alternatives\s[^\n]*?--install\s+([^\n]*)")


class Choice(msgspec.Struct, frozen=True):
    """One candidate for a name (update-alternatives(1)).

    link: the generic path. name: below ALTERNATIVES. path: of the program. slaves: link, name and path of each.
    """

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[tuple[str, str, str], ...]
    package: str


def read_choices(script: str, package: str) -> tuple[list[Choice], list[str]]:
    """Return the candidates that a postinst installs, and the calls that only a shell could understand."""
    found: list[Choice] = []
    unknown: list[str] = []
    text = re.sub(r"\\\n\s*", " ", script)
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for match in _CALL.finditer(text):
        call = re.split(r"\|\||&&|[;>|]|\s2>", match[1])[0].strip()
        choice = _choice(call, package)
        if choice is None:
            unknown.append(" ".join(call.split())[:200])
        else:
            found.append(choice)
    return found, unknown


def _choice(call: str, package: str) -> Choice | None:
    if re.search(r"[$`]", call):
        return None
    try:
        words = shlex.split(call)
    except ValueError:
        return None
    if len(words) < 4 or not re.fullmatch(r"-?\d+", words[3]) or not words[0].startswith("/"):
        return None
    slaves = []
    rest = words[4:]
    while rest:
        if rest[0] != "--slave" or len(rest) < 4:
            return None
        slaves.append((rest[1], rest[2], rest[3]))
        rest = rest[4:]
    return Choice(words[0], words[1], words[2], int(words[3]), tuple(slaves), package)


def write_alternatives(recorder: Recorder, layers: Iterable[Layer]) -> dict[str, list[str]]:
    """Make the links of all alternatives, the highest priority first; return the calls not understood by package."""
    choices: dict[str, list[Choice]] = {}
    unknown: dict[str, list[str]] = {}
    for layer in layers:
        script = layer.control.get("postinst", b"").decode("utf-8", "replace")
        found, strange = read_choices(script, layer.name)
        for choice in found:
            choices.setdefault(choice.name, []).append(choice)
        if strange:
            unknown[layer.name] = strange
    for name in sorted(choices):
        there = [c for c in choices[name] if recorder.tree.exists(c.path)]
        if there:
            best = min(there, key=lambda c: (-c.priority, c.path))
            with recorder.at(f"static: alternative of {best.package}"):
                _link(recorder, best.link, name, best.path)
                for link, slave, path in best.slaves:
                    if recorder.tree.exists(path):
                        _link(recorder, link, slave, path)
    return unknown


def _link(recorder: Recorder, link: str, name: str, path: str) -> None:
    old = recorder.tree.get(recorder.place(link), follow=False)
    if "/" in name or (old is not None and old.kind != SYMLINK):  # a file of a package is never replaced
        return
    recorder.link(f"{ALTERNATIVES}/{name}", path)
    recorder.link(link, f"/{ALTERNATIVES}/{name}")
