"""What a request may say: selections, local packages, pins, chains, packages beside the root."""

from __future__ import annotations

import pytest

from mkroot.debian.package import Package
from mkroot.errors import PackageError, ResolutionError
from mkroot.resolve.explain import chain_text, why, why_not
from mkroot.resolve.request import VARIANTS, Request, Selector
from mkroot.resolve.resolver import beside, resolve
from mkroot.resolve.universe import TextUniverse

TEXT = """Package: app
Version: 2
Architecture: amd64
Depends: lib, mta
Recommends: doc
Suggests: extra

Package: lib
Version: 1
Architecture: amd64

Package: doc
Version: 1
Architecture: all
Depends: lib

Package: exim
Version: 1
Architecture: amd64
Provides: mta

Package: postfix
Version: 1
Architecture: amd64
Provides: mta
Conflicts: mta

Package: extra
Version: 1
Architecture: all

Package: other
Version: 1
Architecture: all
Depends: extra
"""


def request(*include: str, **more: object) -> Request:
    return Request(architecture="amd64", variant="none", include=include, **more)  # type: ignore[arg-type]


def test_selectors() -> None:
    assert Selector.parse("vim/noble-updates").suite == "noble-updates"
    assert Selector.parse("curl=8.*").version == "8.*"
    one = Selector.parse("libc6:i386=2.36-9+deb12u1")
    assert (one.name, one.architecture, one.version) == ("libc6", "i386", "2.36-9+deb12u1")


@pytest.mark.parametrize("text", ["", "a b", "-a", "a=", "a/", "=1", "a=1/b c", "?essential", "a\n"])
def test_selectors_refused(text: str) -> None:
    with pytest.raises(ResolutionError):
        resolve(TextUniverse.of(TEXT), request(text))


def test_architecture_unknown_to_the_root() -> None:
    with pytest.raises(ResolutionError, match="architecture `i386`"):
        resolve(TextUniverse.of(TEXT), request("app:i386"))


def test_variant_unknown() -> None:
    with pytest.raises(ResolutionError, match="unknown variant"):
        resolve(TextUniverse.of(TEXT), Request(architecture="amd64", variant="tiny"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_nothing(variant: str) -> None:
    wanted = {"apt": "apt", "buildd": "build-essential"}.get(variant)
    if wanted is None:
        assert resolve(TextUniverse.of(TEXT), Request(architecture="amd64", variant=variant)).packages == ()
    else:
        with pytest.raises(ResolutionError, match=wanted):
            resolve(TextUniverse.of(TEXT), Request(architecture="amd64", variant=variant))


def local(text: str) -> Package:
    return Package.parse(text.encode())


def test_a_local_package_wins_over_a_newer_one() -> None:
    package = local("Package: app\nVersion: 1\nArchitecture: amd64\nDepends: lib")
    resolution = resolve(TextUniverse.of(TEXT), request(local=(package,)))
    assert [(p.id, p.version) for p in resolution.packages] == [("lib", "1"), ("app", "1")]
    assert resolution.packages[-1].package is package
    assert resolution.packages[-1].why.text() == "requested as `app_1_amd64.deb`"


def test_local_packages_satisfy_each_other() -> None:
    one = local("Package: one\nVersion: 1\nArchitecture: all\nDepends: two-api (>= 2)")
    two = local("Package: two\nVersion: 1\nArchitecture: amd64\nProvides: two-api (= 2)")
    resolution = resolve(TextUniverse.of(TEXT), request(local=(one, two)))
    assert [p.id for p in resolution.packages] == ["two", "one"]


def test_a_local_package_of_another_architecture() -> None:
    package = local("Package: alien\nVersion: 1\nArchitecture: arm64")
    with pytest.raises(ResolutionError, match="arm64"):
        resolve(TextUniverse.of(TEXT), request(local=(package,)))


def test_a_stanza_that_cannot_be_read() -> None:
    bad = TEXT + "\nPackage: bad\nVersion: 1\nArchitecture: all\nDepends: x y\n"
    universe = TextUniverse.of(TEXT)
    assert resolve(universe, request("app")).packages
    with pytest.raises(PackageError, match="not a package relation"):
        TextUniverse.of(bad)


def test_why() -> None:
    resolution = resolve(TextUniverse.of(TEXT), request("app", "lib", recommends=True))
    assert [chain_text(chain) for chain in why(resolution, "lib")] == [
        "lib (requested as `lib`)",
        "app (requested as `app`) → app depends on lib",
        "app (requested as `app`) → app recommends doc → doc depends on lib",
    ]
    assert len(why(resolution, "lib", limit=2)) == 2
    with pytest.raises(ResolutionError, match="not among"):
        why(resolution, "extra")


def test_why_not() -> None:
    universe = TextUniverse.of(TEXT)
    asked = request("app")
    resolution = resolve(universe, asked)
    assert [p.id for p in resolution.packages] == ["lib", "postfix", "app"]
    doc = why_not(universe, asked, resolution, "doc")
    assert doc.brings == ("app recommends doc; `packages.recommends: true` would follow it",)
    assert "nothing stands against it" in doc.reasons[0]
    extra = why_not(universe, asked, resolution, "extra")
    assert extra.brings == ("app suggests extra", "including other would: it depends on extra")
    assert why_not(universe, asked, resolution, "exim").reasons == ("postfix 1 conflicts with mta",)
    assert not why_not(universe, asked, resolution, "nowhere").known
    assert "virtual" in why_not(universe, asked, resolution, "mta").reasons[0]
    with pytest.raises(ResolutionError, match="is among the packages"):
        why_not(universe, asked, resolution, "lib")
    excluding = request("app", exclude=("extra",))
    assert "packages.exclude" in why_not(universe, excluding, resolution, "extra").reasons[0]


def test_beside() -> None:
    universe = TextUniverse.of(TEXT)
    asked = request("lib")
    resolution = resolve(universe, asked)
    found = beside(universe, asked, resolution, ["other", "lib", "extra"])
    assert [(r.id, r.stage, r.why.text()) for r in found] == [
        ("extra", "beside", "beside the root"),
        ("other", "beside", "beside the root"),
    ]
    with pytest.raises(ResolutionError):
        beside(universe, asked, resolution, ["nowhere"])


def test_a_tool_beside_the_root_comes_with_what_it_needs_and_the_root_lacks() -> None:
    universe = TextUniverse.of(TEXT)
    asked = request("lib")
    found = beside(universe, asked, resolve(universe, asked), ["extra"], ["doc"])
    assert [r.id for r in found] == ["doc", "extra"]
    bare = request("exim")
    found = beside(universe, bare, resolve(universe, bare), [], ["doc"])
    assert [r.id for r in found] == ["doc", "lib"]


def test_what_is_there_already_is_used_and_not_installed_again() -> None:
    parent = (
        local("Package: lib\nVersion: 0\nArchitecture: amd64\nRecommends: doc"),
        local("Package: exim\nVersion: 0\nArchitecture: amd64\nProvides: mta"),
    )
    resolution = resolve(TextUniverse.of(TEXT), request("app", "lib", provided=parent, recommends=True))
    assert [p.id for p in resolution.packages] == ["app", "doc"]
    newer = TextUniverse.of(TEXT.replace("Depends: lib, mta", "Depends: lib (>= 1), mta"))
    with pytest.raises(ResolutionError) as caught:
        resolve(newer, request("app", provided=parent))
    assert "but lib 0 is there already" in str(caught.value)
    assert "leave out `app`" in str(caught.value)
