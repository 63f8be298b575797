"""A signed miniature archive on disk: suites, pockets, components, architectures, indices and a pool."""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.testarchive.deb import SUFFIXES, Content, compress
from tests.testarchive.openpgp import Key, Signing, armor, clearsign, detached
from tests.testarchive.server import Server

DATE = 1750000000  # 2025-06-15T15:06:40Z, the Date of every Release unless told otherwise
_CONTENT_KEYS = frozenset(f.name for f in dataclasses.fields(Content))
_FIELD_ORDER = ("Package", "Source", "Version", "Architecture")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A package in the pool."""

    name: str
    version: str
    architecture: str
    path: Path
    filename: str
    sha256: str
    size: int
    control: str
    stanza: str


@dataclass(slots=True, kw_only=True)
class Suite:
    """One suite of the archive and everything that may be odd about its Release file; change it, then publish.

    prefix: what the Components field puts before a component that the paths do not have (`updates/`).
    fields: Release fields added, replaced, or (None) left out.
    signers: who signs and when; None for the archive's key at `date`.
    edit: changes the Release text before it is signed.
    wrap: changes InRelease after it was signed.
    forms: which of `InRelease`, `Release`, `Release.gpg` are written.
    armored: whether Release.gpg is in ASCII armour.
    listed: the compressions of Packages that Release lists and the pool has.
    """

    name: str
    codename: str
    suite: str
    tree: Path
    origin: str
    label: str
    version: str
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    prefix: str = ""
    date: int = DATE
    valid_until: int | None = None
    by_hash: bool = True
    listed: tuple[str, ...] = ("none", "gz", "xz")
    index_all: bool = False
    fields: dict[str, str | None] = field(default_factory=dict)
    signers: Sequence[Signing] | None = None
    edit: Callable[[str], str] | None = None
    wrap: Callable[[bytes], bytes] | None = None
    forms: tuple[str, ...] = ("InRelease", "Release", "Release.gpg")
    armored: bool = True
    stanzas: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where Release stands."""
        return self.tree / "dists" / self.name


class Archive:
    """A Debian or Ubuntu archive in miniature, made under `root`, signed with a test key, the same bytes every time.

        archive = Archive(tmp_path)
        archive.add("hello", "1.0", files={"usr/bin/hello": b"hi"}, depends="libc6 (>= 2)")
        archive.uri                      # file:…/debian, published
        with archive.serve() as server:  # http://127.0.0.1:…/debian, see Server for faults
            server.uri

    Debian's security pocket stands in the sibling `debian-security`, Ubuntu's in the archive itself; all three
    pockets are always there, empty or not. `archive.suites[name]` holds what may be made odd about each.
    """

    def __init__(
        self,
        root: Path,
        *,
        distro: str = "debian",
        codename: str | None = None,
        suite: str | None = None,
        version: str | None = None,
        components: Sequence[str] = ("main",),
        architectures: Sequence[str] = ("amd64",),
        key: Key | None = None,
    ) -> None:
        self.root = root
        self.distro = distro
        debian = distro == "debian"
        self.codename = codename or ("trixie" if debian else "noble")
        self.key = key or Key()
        self.components = tuple(components)
        self.architectures = tuple(architectures)
        self.tree = root / distro
        self.suites: dict[str, Suite] = {}
        base = suite or ("stable" if debian else self.codename)
        origin = distro.capitalize()
        number = version or ("13.0" if debian else "24.04")
        for pocket in ("", "-updates", "-security"):
            apart = debian and pocket == "-security"
            self.suites[self.codename + pocket] = Suite(
                name=self.codename + pocket,
                codename=self.codename + (pocket if debian else ""),
                suite=base + pocket,
                tree=root / "debian-security" if apart else self.tree,
                origin=origin,
                label="Debian-Security" if apart else origin,
                version=number,
                components=self.components,
                architectures=self.architectures,
                prefix="updates/" if apart else "",
            )
        self.root.mkdir(parents=True, exist_ok=True)
        self.keyring = root / "archive-key.asc"
        self.keyring.write_text(self.key.public_armored())
        self._stale = True

    def suite(self, name: str, **changes: Any) -> Suite:
        """Return the suite `name`, made on demand as one of the main tree, with the fields in `changes` set."""
        if name not in self.suites:
            first = self.suites[self.codename]
            self.suites[name] = dataclasses.replace(
                first, name=name, codename=name, suite=name, fields={}, stanzas={}, tree=self.tree
            )
        for key, value in changes.items():
            setattr(self.suites[name], key, value)
        self._stale = True
        return self.suites[name]

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        architecture: str = "all",
        suite: str | None = None,
        component: str = "main",
        content: Content | None = None,
        control: Callable[[str], str] | None = None,
        index: Mapping[str, str | None] | None = None,
        **more: Any,
    ) -> Built:
        """Build a package, put it into the pool and list it.

        more: fields of Content (files, symlinks, scripts, conffiles, compression, …), and control fields in lower
        case with underscores (depends, pre_depends, multi_arch, essential=True, priority, …).
        control: changes the control file's text in the package, not in the index.
        index: fields changed in the index only (None removes), for an index that lies.
        """
        body = content or Content(**{k: more.pop(k) for k in list(more) if k in _CONTENT_KEYS})
        fields = {"Package": name, "Version": version, "Architecture": architecture}
        defaults = {"maintainer": "Test <test@example.org>", "priority": "optional", "section": "misc"}
        defaults |= {"installed_size": str(body.installed_size()), "description": f"test package {name}"}
        for key, value in {**defaults, **more}.items():
            if value is None or value is False:
                continue
            fields[_field_name(key)] = "yes" if value is True else str(value)
        text = _stanza(fields)
        data = body.deb(control(text) if control else text)
        where = self.suite(suite or self.codename)
        source = fields.get("Source", name).split(" ")[0]
        letter = source[:4] if source.startswith("lib") and len(source) > 4 else source[:1]
        file = f"{name}_{version.split(':', 1)[-1]}_{architecture}.deb"
        filename = f"pool/{component}/{letter}/{source}/{file}"
        path = where.tree / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        listed: dict[str, str | None] = {**fields, "Filename": filename, "Size": str(len(data)), "SHA256": digest}
        listed.update(index or {})
        stanza = _stanza({k: v for k, v in listed.items() if v is not None})
        self.stanza(stanza, architecture=architecture, suite=where.name, component=component)
        return Built(
            name=name,
            version=version,
            architecture=architecture,
            path=path,
            filename=filename,
            sha256=digest,
            size=len(data),
            control=text,
            stanza=stanza,
        )

    def stanza(
        self, text: str, *, architecture: str = "all", suite: str | None = None, component: str = "main"
    ) -> None:
        """List a stanza as it is, with no package behind it needed."""
        where = self.suite(suite or self.codename)
        where.stanzas.setdefault((component, architecture), []).append(text.strip("\n") + "\n")

    def publish(self) -> None:
        """Write the indices and Release files of every suite anew."""
        for suite in self.suites.values():
            self._publish(suite)
        self._stale = False

    def _publish(self, suite: Suite) -> None:
        shutil.rmtree(suite.folder, ignore_errors=True)
        suite.folder.mkdir(parents=True)
        listed: list[tuple[str, int, str]] = []
        for component in suite.components:
            folders = [*suite.architectures, *(["all"] if suite.index_all else [])]
            for architecture in folders:
                packages = self._packages(suite, component, architecture).encode()
                for method in suite.listed:
                    path = f"{component}/binary-{architecture}/Packages{SUFFIXES[method]}"
                    listed.append(self._index(suite, path, compress(packages, method)))
        text = self.release_text(suite, sorted(listed, key=lambda row: row[2]))
        if suite.edit:
            text = suite.edit(text)
        signers = [Signing(key=self.key, created=suite.date)] if suite.signers is None else suite.signers
        self._sign(suite, text, signers)

    def _packages(self, suite: Suite, component: str, architecture: str) -> str:
        own = suite.stanzas.get((component, architecture), [])
        shared = suite.stanzas.get((component, "all"), []) if architecture != "all" else []
        return "\n".join([*own, *shared])

    @staticmethod
    def _index(suite: Suite, path: str, data: bytes) -> tuple[str, int, str]:
        digest = hashlib.sha256(data).hexdigest()
        names = [path]
        if suite.by_hash:
            names.append(f"{path.rpartition('/')[0]}/by-hash/SHA256/{digest}")
        for name in names:
            file = suite.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return digest, len(data), path

    @staticmethod
    def release_text(suite: Suite, listed: Sequence[tuple[str, int, str]]) -> str:
        """Return the Release file of `suite` that lists (sha256, size, path) rows."""
        fields: dict[str, str | None] = {
            "Origin": suite.origin,
            "Label": suite.label,
            "Suite": suite.suite,
            "Version": suite.version,
            "Codename": suite.codename,
            "Date": _rfc822(suite.date),
            "Valid-Until": None if suite.valid_until is None else _rfc822(suite.valid_until),
            "Acquire-By-Hash": "yes" if suite.by_hash else None,
            "Architectures": " ".join([*(["all"] if suite.index_all else []), *suite.architectures]),
            "Components": " ".join(suite.prefix + c for c in suite.components),
            "Description": f"Test archive {suite.name}",
        }
        fields.update(suite.fields)
        head = "".join(f"{k}: {v}\n" for k, v in fields.items() if v is not None)
        return head + "SHA256:\n" + "".join(f" {digest} {size:>16} {path}\n" for digest, size, path in listed)

    @staticmethod
    def _sign(suite: Suite, text: str, signers: Sequence[Signing]) -> None:
        if "InRelease" in suite.forms:
            data = (clearsign(text, signers) if signers else text).encode()
            (suite.folder / "InRelease").write_bytes(suite.wrap(data) if suite.wrap else data)
        if "Release" in suite.forms:
            (suite.folder / "Release").write_text(text)
        if "Release.gpg" in suite.forms and signers:
            packets = detached(text.encode(), signers)
            made = armor("SIGNATURE", packets).encode() if suite.armored else packets
            (suite.folder / "Release.gpg").write_bytes(made)

    @property
    def uri(self) -> str:
        """The archive as a `file:` mirror, published."""
        if self._stale:
            self.publish()
        return f"file:{self.tree}"

    @contextlib.contextmanager
    def serve(self) -> Iterator[Server]:
        """Serve the archive over HTTP on loopback while the context lasts; `server.uri` is the mirror."""
        if self._stale:
            self.publish()
        with Server(self.root, f"/{self.distro}") as server:
            yield server

    def recipe(self, *, uri: str | None = None, **more: Any) -> dict[str, Any]:
        """Return a recipe for this archive as plain data; `more` adds to it or replaces."""
        return {
            "version": 1,
            "name": "mini",
            "distro": self.distro,
            "suite": self.codename,
            "arch": [self.architectures[0]],
            "mirror": uri or self.uri,
            "keyring": str(self.keyring),
            **more,
        }


def _field_name(key: str) -> str:
    return "-".join(part.capitalize() for part in key.split("_")) if key.islower() else key


def _stanza(fields: Mapping[str, str]) -> str:
    first = [k for k in _FIELD_ORDER if k in fields]
    return "".join(f"{k}: {fields[k]}\n" for k in [*first, *(k for k in fields if k not in first)])


def _rfc822(when: int) -> str:
    return email.utils.formatdate(when, usegmt=True).replace("GMT", "UTC")
