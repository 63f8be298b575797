"""The host's own apt sources, one-line and deb822 form (sources.list(5)), and which of them are the distribution's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from mkroot.archive import keyring
from mkroot.archive.address import Address, parse, with_credentials
from mkroot.errors import MkrootError

_OPTIONS = re.compile(r"\[([^\[\]]*+)\]")
_NAMED = re.compile(r"/usr/share/keyrings/[a-z]+-archive-[a-z-]+\.(gpg|pgp|asc)\Z")
_POCKETS = ("-updates", "-security", "-backports", "-proposed", "-proposed-updates", "-debug")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One enabled binary source of apt: an address with the suites and components taken from it.

    signed_by: as written: paths, fingerprints or a key block; "" where apt's trusted keys apply.
    architectures: () where not restricted.
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str
    architectures: tuple[str, ...]


def read(root: Path) -> list[Entry]:
    """Return the entries of the apt configuration under `root` ("/" for the host's), in apt's order of files."""
    etc = root / "etc/apt"
    out: list[Entry] = list(_one_line(_text(etc / "sources.list")))
    try:
        names = sorted(os.listdir(etc / "sources.list.d"))
    except OSError:
        names = []
    for name in names:
        text = _text(etc / "sources.list.d" / name)
        if name.endswith(".sources"):
            out += _deb822(text)
        elif name.endswith(".list"):
            out += _one_line(text)
    return out


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _one_line(text: str) -> Iterator[Entry]:
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        match = _OPTIONS.search(line)
        options: dict[str, str] = {}
        if match:
            options = {k.lower(): v for k, _, v in (o.partition("=") for o in match[1].split())}
            line = line[: match.start()] + " " + line[match.end() :]
        words = line.split()
        if len(words) < 3 or words[0] != "deb":
            continue
        yield Entry(
            uri=words[1],
            suites=(words[2],),
            components=tuple(words[3:]),
            signed_by=options.get("signed-by", ""),
            architectures=tuple(filter(None, options.get("arch", "").split(","))),
        )


def _deb822(text: str) -> Iterator[Entry]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() in _NO:
            continue
        for uri in fields.get("uris", "").split():
            yield Entry(
                uri=uri,
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", "").strip(),
                architectures=tuple(fields.get("architectures", "").split()),
            )


_NO = ("no", "false", "without", "off", "disable", "0")


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the host says of itself: its distribution's id (os-release(5)), release name, and architecture."""

    distro: str
    codename: str
    architecture: str


_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "armhf",
    "i686": "i386",
    "ppc64le": "ppc64el",
    "riscv64": "riscv64",
    "s390x": "s390x",
}


def host(root: Path) -> Host:
    """Return what the system under `root` is."""
    fields: Mapping[str, str] = {}
    for name in ("etc/os-release", "usr/lib/os-release"):
        if text := _text(root / name):
            pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
            fields = {k.strip(): v.strip().strip("\"'") for k, _, v in pairs}
            break
    machine = os.uname().machine
    return Host(
        distro=fields.get("ID", ""),
        codename=fields.get("VERSION_CODENAME", ""),
        architecture=_MACHINES.get(machine, machine),
    )


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The distribution's archive in the host's sources, and its security archive where that is named apart."""

    archive: Address
    security: Address | None


def find(distro: str, architecture: str, root: Path) -> Found | None:
    """Return where the host under `root` gets `distro` from, None where it is another distribution's host.

    A third party's archive may well use the distribution's suite and component names. An entry counts when its keys
    are the distribution's own, or, where it names no keys, when apt's downloaded Release says so or the entry looks
    the part: `main` among the components and an address that ends in the distribution's name.
    """
    system = host(root)
    if system.distro != distro:
        return None
    security: Address | None = None
    archive: Address | None = None
    for entry in read(root):
        if "main" not in entry.components or not _for_architecture(entry, distro, architecture, system.architecture):
            continue
        try:
            address = with_credentials(parse(entry.uri, "the host's apt sources"), root / "etc/apt")
        except MkrootError:
            continue  # cdrom:, mirror+file: and their kin, which only apt can read
        releases = [s for s in entry.suites if not s.endswith(_POCKETS) and "/" not in s]
        secure = [s for s in entry.suites if s.endswith(("-security", "/updates"))]
        if not (releases or secure) or not _ours(entry, address, distro, root):
            continue
        if releases and archive is None:
            archive = address
        elif secure and not releases and security is None:
            security = address
    return None if archive is None else Found(archive=archive, security=security)


def _for_architecture(entry: Entry, distro: str, wanted: str, native: str) -> bool:
    if entry.architectures:
        return wanted in entry.architectures
    # Ubuntu keeps amd64 and i386 in one archive and all others in another.
    main = ("amd64", "i386")
    return distro != "ubuntu" or (wanted in main) == (native in main)


def _ours(entry: Entry, address: Address, distro: str, root: Path) -> bool:
    if entry.signed_by:
        return _signed_by_ours(entry.signed_by, distro, root)
    origin = _origin(entry, root)
    if origin is not None:
        return origin.lower() == distro
    names = [part for part in address.url.split("/") if part]
    return names[-1] in (distro, f"{distro}-security", f"{distro}-ports")


def _signed_by_ours(signed_by: str, distro: str, root: Path) -> bool:
    """Tell whether Signed-By names the distribution's keys: by file, by fingerprint, or as a key block."""
    if _NAMED.match(signed_by) and f"/{distro}-archive-" in signed_by:
        return True  # the distribution's own files, by their names; no need to read keys at every start
    try:
        known = {part.fingerprint for c in keyring.shipped(distro, host=None).certificates for part in c.parts}
        if "BEGIN PGP" in signed_by:
            # In deb822 form an empty line is written as a dot.
            block = "\n".join("" if line == "." else line for line in signed_by.split("\n"))
            found = _fingerprints(keyring.parse(block.encode(), "Signed-By"))
            return bool(found & known)
        for word in re.split(r"[\s,]+", signed_by):
            if word.startswith("/"):
                found = _fingerprints(keyring.load(root / word.lstrip("/")))
            else:
                found = {word.rstrip("!").lower()}
            if found & known:
                return True
    except MkrootError:
        return False
    return False


def _fingerprints(ring: keyring.Keyring) -> set[str]:
    return {part.fingerprint for c in ring.certificates for part in c.parts}


def _origin(entry: Entry, root: Path) -> str | None:
    """Return the Origin of the Release that apt has downloaded and verified for an entry, None where there is none."""
    bare = re.sub(r"^[a-z+]+:/*", "", entry.uri).rpartition("@")[2].strip("/")
    stem = bare.replace("_", "%5f").replace("/", "_")
    for suite in entry.suites:
        for form in ("InRelease", "Release"):
            text = _text(root / "var/lib/apt/lists" / f"{stem}_dists_{suite.replace('/', '_')}_{form}")
            if match := re.search(r"^Origin: *(.*)$", text, re.MULTILINE):
                return match[1].strip()
    return None


def template(distro: str, architecture: str, root: Path) -> str | None:
    """Return the address in the distribution's own data of the package python-apt-common, None where there is none."""
    path = root / "usr/share/python-apt/templates" / f"{distro.capitalize()}.info"
    for stanza in re.split(r"\n[ \t]*\n", _text(path)):
        fields = _fields(stanza)
        if fields.get("repositorytype") != "deb" or fields.get("official", "true").lower() == "false":
            continue
        if fields.get("suite", "").endswith(_POCKETS) or "parentsuite" in fields:
            continue
        found = fields.get(f"baseuri-{architecture}") or fields.get("baseuri")
        if found and "%s" not in found:
            return found
    return None
