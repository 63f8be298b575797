"""One binary package as its index or its control file describes it."""

from __future__ import annotations

from mkroot.debian.deb822 import parse_stanza
from mkroot.debian.relation import Clause, parse_relations
from mkroot.debian.release import Index
from mkroot.errors import MkrootError, PackageError

PRIORITIES = ("required", "important", "standard", "optional", "extra")  # Policy 2.5, most important first


class Package:
    """A binary package's stanza; never changed once made. Relations are parsed when they are first asked for.

    name, version, architecture: as written; `architecture` may be "all".
    source, source_version: of the source package it was built from.
    size: of the .deb in bytes; installed_size: KiB; sha256: hexadecimal, "" where the stanza has none.
    filename: relative to the mirror, "" for a local file.
    origin: the index it stands in; None for a local .deb.
    """

    __slots__ = ("_relations", "architecture", "fields", "name", "origin", "version")

    def __init__(self, fields: dict[str, str], origin: Index | None = None) -> None:
        """Make it of the fields by lower-case name; raises PackageError where name, version or architecture fail."""
        self.name = fields.get("package", "")
        self.version = fields.get("version", "")
        self.architecture = fields.get("architecture", "")
        if not (self.name and self.version and self.architecture):
            missing = next(name for name in ("package", "version", "architecture") if not fields.get(name))
            raise PackageError(
                f"a package stanza lacks the field '{missing}'",
                where=self.name or (origin and f"{origin.suite}/{origin.component}") or None,
            )
        self.fields = fields
        self.origin = origin
        self._relations: dict[str, tuple[Clause, ...]] = {}

    @classmethod
    def parse(cls, stanza: bytes, origin: Index | None = None) -> Package:
        """Read one stanza; raises PackageError."""
        return cls(parse_stanza(stanza), origin)

    def __repr__(self) -> str:
        return f"<Package {self.name}:{self.architecture} {self.version}>"

    def relations(self, field: str) -> tuple[Clause, ...]:
        """Return the clauses of a relationship field by its lower-case name; raises PackageError naming the package."""
        known = self._relations.get(field)
        if known is None:
            text = self.fields.get(field, "")
            try:
                known = parse_relations(text) if text else ()
            except MkrootError as e:
                raise PackageError(e.what, where=f"{self.name} {self.version}, field {field}") from None
            self._relations[field] = known
        return known

    depends = property(lambda self: self.relations("depends"))
    pre_depends = property(lambda self: self.relations("pre-depends"))
    recommends = property(lambda self: self.relations("recommends"))
    suggests = property(lambda self: self.relations("suggests"))
    conflicts = property(lambda self: self.relations("conflicts"))
    breaks = property(lambda self: self.relations("breaks"))
    replaces = property(lambda self: self.relations("replaces"))
    provides = property(lambda self: self.relations("provides"))

    @property
    def multi_arch(self) -> str:
        """ "no", "same", "foreign" or "allowed" (Multi-Arch specification)."""
        return self.fields.get("multi-arch", "no") or "no"

    @property
    def source(self) -> str:
        """The source package's name."""
        return self.fields.get("source", self.name).partition(" ")[0] or self.name

    @property
    def source_version(self) -> str:
        """The source package's version, which is the binary's own where the Source field has none."""
        text = self.fields.get("source", "")
        return text[text.index("(") + 1 :].partition(")")[0].strip() if "(" in text else self.version

    @property
    def priority(self) -> str:
        """One of PRIORITIES; "extra" where the stanza's is none of them, as apt takes it."""
        text = self.fields.get("priority", "").lower()
        return text if text in PRIORITIES else "extra"

    @property
    def section(self) -> str:
        """The section, "" where there is none."""
        return self.fields.get("section", "")

    @property
    def essential(self) -> bool:
        """Essential: yes (Policy 3.8)."""
        return self._yes("essential")

    @property
    def protected(self) -> bool:
        """Protected: yes."""
        return self._yes("protected")

    @property
    def important(self) -> bool:
        """Important: yes, the older name of Protected."""
        return self._yes("important")

    @property
    def size(self) -> int:
        """The .deb's size in bytes, 0 where the stanza does not say."""
        return self._number("size")

    @property
    def installed_size(self) -> int:
        """What the package says that it takes installed, KiB."""
        return self._number("installed-size")

    @property
    def sha256(self) -> str:
        """Digest of the .deb, hexadecimal, lower case."""
        return self.fields.get("sha256", "").strip().lower()

    @property
    def filename(self) -> str:
        """Path of the .deb relative to the mirror."""
        return self.fields.get("filename", "")

    def _yes(self, field: str) -> bool:
        return self.fields.get(field, "").strip().lower() == "yes"

    def _number(self, field: str) -> int:
        text = self.fields.get(field, "").strip()
        return int(text[:18]) if text.isascii() and text.isdigit() else 0
