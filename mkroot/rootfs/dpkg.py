"""What dpkg's database must say of packages that are unpacked and not yet configured (dpkg(1), deb-triggers(5))."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import msgspec

from mkroot.store.layer import Layer
from mkroot.store.unpack import control_fields, info_name

ADMIN = "var/lib/dpkg"
STATUS = ADMIN + "/status"
TRIGGERS = ADMIN + "/triggers"
OBSOLETE = "remove-on-upgrade"  # a conffile's flag


class Interest(msgspec.Struct, frozen=True):
    """A trigger that a package waits for. name: a path, or an explicit trigger. noawait: nobody waits for it."""

    name: str
    package: str
    noawait: bool


def unpacked_stanza(layer: Layer) -> bytes:
    """Return the status stanza of a package that was unpacked: its control fields, its state and its conffiles.

    The conffiles stand under their final names already, so each is listed with its digest, as configured ones are.
    """
    lines = [line for line in layer.control["control"].strip(b"\n").split(b"\n") if not line.startswith(b"#")]
    head = [lines[0]] if lines[0].lower().startswith(b"package:") else []
    rest = lines[len(head) :]
    state = [b"Status: install ok unpacked"]
    conffiles = list(_conffiles(layer))
    conffiles[:0] = [b"Conffiles:"] if conffiles else []
    return b"\n".join([*head, *state, *rest, *conffiles]) + b"\n"


def _conffiles(layer: Layer) -> Iterator[bytes]:
    """Yield the conffiles' lines in the order of the package's list (deb-conffiles(5))."""
    sums = dict(layer.conffiles)
    for line in layer.control.get("conffiles", b"").decode("utf-8", "surrogateescape").split("\n"):
        flag, _, path = line.rstrip().partition(" ")
        if flag == OBSOLETE:  # not in this version: dpkg remembers it to remove what an older one left
            yield f" {path} newconffile {OBSOLETE}".encode("utf-8", "surrogateescape")
        elif line.rstrip() in sums:
            yield f" {line.rstrip()} {sums[line.rstrip()]}".encode("utf-8", "surrogateescape")


def stanzas(status: bytes) -> list[bytes]:
    """Split a status file into its stanzas, each ending with a newline."""
    return [s.strip(b"\n") + b"\n" for s in status.split(b"\n\n") if s.strip()]


def states(status: bytes) -> dict[str, str]:
    """Return each package's state (the third word of Status) by name and architecture, `name:arch`."""
    found: dict[str, str] = {}
    for stanza in stanzas(status):
        fields = {}
        for line in stanza.split(b"\n"):
            name, colon, value = line.partition(b":")
            if colon and name in (b"Package", b"Status", b"Architecture"):
                fields[name] = value.strip().decode("utf-8", "surrogateescape")
        if b"Package" in fields:
            key = f"{fields[b'Package']}:{fields.get(b'Architecture', '')}"
            found[key] = fields.get(b"Status", "").rpartition(" ")[2]
    return found


def _directives(layer: Layer) -> list[tuple[str, str]]:
    text = layer.control.get("triggers", b"").decode("utf-8", "surrogateescape")
    words = (line.split() for line in text.split("\n"))
    return [(w[0], w[1]) for w in words if len(w) == 2 and not w[0].startswith("#")]


def interests(layers: list[Layer]) -> list[Interest]:
    """Return what packages wait for, in order."""
    found = []
    for layer in layers:
        package = info_name(control_fields(layer.control["control"]))
        for directive, name in _directives(layer):
            if directive in ("interest", "interest-await", "interest-noawait"):
                found.append(Interest(name, package, directive == "interest-noawait"))
    return found


def trigger_files(waiting: list[Interest]) -> dict[str, bytes]:
    """Return the files of dpkg's trigger database by path."""
    by_name: dict[str, list[str]] = {}
    paths: list[str] = []
    for interest in waiting:
        mark = interest.package + ("/noawait" if interest.noawait else "")
        if interest.name.startswith("/"):
            paths.append(f"{interest.name} {mark}")
        else:
            by_name.setdefault(interest.name, []).append(mark)
    files = {f"{TRIGGERS}/{n}": "".join(m + "\n" for m in by_name[n]).encode() for n in sorted(by_name)}
    files[f"{TRIGGERS}/File"] = "".join(p + "\n" for p in paths).encode()
    files[f"{TRIGGERS}/Unincorp"] = b""
    return files


def activated(layers: list[Layer], waiting: list[Interest]) -> dict[str, list[str]]:
    """Return the triggers that unpacking `layers` activates, by the package that waits for them, in order.

    A path trigger is activated by every path at or below it; an explicit one by an `activate` directive.
    """
    explicit = {n for layer in layers for d, n in _directives(layer) if d.startswith("activate")}
    paths = sorted({e.path for layer in layers for e in layer.entries}) if waiting else []
    found: dict[str, list[str]] = {}
    for interest in waiting:
        name = interest.name
        if name.startswith("/"):
            hit = _at_or_below(paths, name.lstrip("/"))
        else:
            hit = name in explicit
        if hit and name not in found.setdefault(interest.package, []):
            found[interest.package].append(name)
    return {package: names for package, names in found.items() if names}


def _at_or_below(paths: list[str], path: str) -> bool:
    """Tell whether a path, or one below it, is among sorted ones."""
    for start in (path, path + "/"):  # names such as `path-x` stand between them
        at = bisect.bisect_left(paths, start)
        if at < len(paths) and (paths[at] == path or paths[at].startswith(path + "/")):
            return True
    return False


def with_pending(stanza: bytes, names: list[str]) -> bytes:
    """Return an installed package's stanza with triggers that it has yet to process, beside those that it says."""
    lines = []
    words = [name.encode() for name in names]
    for line in stanza.rstrip(b"\n").split(b"\n"):
        if line.startswith(b"Triggers-Pending:"):
            words = [*line.split()[1:], *words]
            continue
        if line == b"Status: install ok installed":
            line = b"Status: install ok triggers-pending"
        lines.append(line)
    lines.append(b"Triggers-Pending: " + b" ".join(dict.fromkeys(words)))
    return b"\n".join(lines) + b"\n"


def status_file(before: bytes, layers: list[Layer], waiting: list[Interest]) -> bytes:
    """Return the status file after unpacking `layers` on top of what `before` says is installed.

    waiting: what the packages installed before wait for.
    """
    pending = activated(layers, waiting)
    out = []
    for stanza in stanzas(before):
        fields = control_fields(stanza)
        names = pending.get(info_name(fields))
        out.append(with_pending(stanza, names) if names else stanza)
    out.extend(unpacked_stanza(layer) for layer in layers)
    return b"\n".join(out)
