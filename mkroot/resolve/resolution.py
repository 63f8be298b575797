"""The answer: which packages, why each, in which order to configure them."""

from __future__ import annotations

import msgspec

from mkroot.debian.package import Package
from mkroot.resolve.request import Request

_VERB = {
    "pre-depends": "pre-depends on",
    "depends": "depends on",
    "recommends": "recommends",
    "conflicts": "conflicts with",
    "breaks": "breaks",
}


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a package is there.

    kind: "essential" | "priority" | "variant" | "requested" (wishes of the recipe), "pre-depends" | "depends" |
    "recommends" (another package's relation), "beside" (locked, not installed).
    detail: the priority, the variant's name, or the include as written.
    by: the package whose `relation` it is; "" for a wish.
    """

    kind: str
    detail: str = ""
    by: str = ""
    relation: str = ""

    def text(self) -> str:
        """Return it as a short text: `curl depends on libcurl4 (>= 8)`, `priority required`, `requested as ...`."""
        if self.by:
            return f"{self.by} {_VERB[self.kind]} {self.relation}"
        if self.kind == "requested":
            return f"requested as `{self.detail}`"
        return f"{self.kind} {self.detail}".strip()


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """One package of the answer.

    id: its name, with `:architecture` where that is foreign.
    stage: "essential" | "variant" | "include": the first stage of the configuration that needs it.
    upgrades: the version that was there already, of which it takes the place; "" for none.
    """

    id: str
    package: Package
    why: Reason
    stage: str
    upgrades: str = ""

    @property
    def name(self) -> str:
        """The package's name."""
        return self.package.name

    @property
    def version(self) -> str:
        """The version as written."""
        return self.package.version

    @property
    def architecture(self) -> str:
        """The package's own architecture, may be "all"."""
        return self.package.architecture


class Link(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A relation between two packages of the answer that holds because of the second."""

    by: str
    kind: str
    relation: str
    target: str


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer.

    packages: in an order in which each comes after what it depends on, cycles apart.
    wishes: (id, reason) for all that the request itself names.
    links: every relation that holds between two of the packages.
    notes: what a person should know about how it was found.
    """

    request: Request
    packages: tuple[Resolved, ...]
    wishes: tuple[tuple[str, Reason], ...]
    links: tuple[Link, ...]
    notes: tuple[str, ...] = ()

    def get(self, name: str) -> Resolved | None:
        """Return the package of that id, or of that name where the id is another."""
        by_name = None
        for one in self.packages:
            if one.id == name:
                return one
            if one.name == name and by_name is None:
                by_name = one
        return by_name
