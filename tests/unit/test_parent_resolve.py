"""What apt-get would install over packages that are there: upgrades where something needs them, and no others."""

from __future__ import annotations

import itertools

import pytest

from mkroot.debian.package import Package
from mkroot.errors import ResolutionError
from mkroot.resolve.request import Request
from mkroot.resolve.resolution import Resolution
from mkroot.resolve.resolver import beside, resolve
from mkroot.resolve.universe import TextUniverse

ARCHIVE = """Package: lib
Version: 2
Architecture: amd64
Breaks: old-user (<< 2)

Package: lib-dev
Version: 2
Architecture: amd64
Depends: lib (= 2)

Package: old-user
Version: 2
Architecture: amd64
Depends: lib (>= 1)

Package: lib-bin
Version: 2
Architecture: amd64
Source: lib
Depends: lib (>= 1)

Package: tied
Version: 2
Architecture: amd64
Depends: lib (= 2)

Package: app
Version: 1
Architecture: amd64
Depends: lib (>= 1), calm

Package: calm
Version: 2
Architecture: amd64

Package: enemy
Version: 1
Architecture: amd64
Conflicts: calm

Package: choosy
Version: 1
Architecture: amd64
Depends: calm (>= 2) | lib
"""


def there(*packages: tuple[str, str, str]) -> tuple[Package, ...]:
    """Packages as dpkg's status has them: name, version, further lines."""
    return tuple(
        Package.parse(
            f"Package: {name}\nStatus: install ok installed\nVersion: {version}\nArchitecture: amd64\n{more}".encode()
        )
        for name, version, more in packages
    )


def over(*include: str, parent: tuple[Package, ...], **more: object) -> Resolution:
    request = Request(
        architecture="amd64",
        variant="none",
        include=include,
        provided=parent,
        upgrades=True,
        **more,  # type: ignore[arg-type]
    )
    return resolve(TextUniverse.of(ARCHIVE), request)


def rows(resolution: Resolution) -> dict[str, tuple[str, str]]:
    return {r.id: (r.upgrades, r.version) for r in resolution.packages}


LIB = ("lib", "1", "")
CALM = ("calm", "1", "")


def test_without_a_need_nothing_is_upgraded() -> None:
    assert rows(over("app", parent=there(LIB, CALM))) == {"app": ("", "1")}


def test_what_is_needed_is_upgraded() -> None:
    found = over("lib-dev", parent=there(LIB, CALM))
    assert rows(found) == {"lib": ("1", "2"), "lib-dev": ("", "2")}
    assert [r.id for r in found.packages] == ["lib", "lib-dev"]
    assert found.packages[0].why.text() == "lib-dev depends on lib (= 2)"
    assert found.notes == ()


def test_what_the_new_version_breaks_is_upgraded_too() -> None:
    found = over("lib-dev", parent=there(LIB, ("old-user", "1", "Depends: lib\n")))
    assert rows(found) == {"lib": ("1", "2"), "lib-dev": ("", "2"), "old-user": ("1", "2")}
    assert {r.id: r.why.text() for r in found.packages}["old-user"] == "lib breaks old-user (<< 2)"


def test_what_needs_the_old_version_is_upgraded_too() -> None:
    found = over("lib-dev", parent=there(LIB, ("tied", "1", "Depends: lib (= 1)\n")))
    assert rows(found) == {"lib": ("1", "2"), "lib-dev": ("", "2"), "tied": ("1", "2")}


def test_siblings_of_one_source_move_together() -> None:
    found = over("lib-dev", parent=there(LIB, ("lib-bin", "1", "Source: lib\n")))
    assert rows(found)["lib-bin"] == ("1", "2")
    assert {r.id: r.why.text() for r in found.packages}["lib-bin"] == "upgrade with lib, of the same source"


def test_an_include_that_is_there_is_upgraded_and_one_that_is_newest_is_not() -> None:
    assert rows(over("calm", parent=there(CALM))) == {"calm": ("1", "2")}
    assert rows(over("calm", parent=there(("calm", "2", "")))) == {}
    assert rows(over("calm", parent=there(("calm", "3", "")))) == {}


def test_a_recommendation_that_was_not_followed_before_is_not_followed_now() -> None:
    text = "Package: app\nVersion: 2\nArchitecture: amd64\nRecommends: nice, fresh\n"
    text += "\nPackage: nice\nVersion: 1\nArchitecture: amd64\n\nPackage: fresh\nVersion: 1\nArchitecture: amd64\n"
    request = Request(
        architecture="amd64",
        variant="none",
        include=("app",),
        provided=there(("app", "1", "Recommends: nice\n")),
        upgrades=True,
        recommends=True,
    )
    assert sorted(rows(resolve(TextUniverse.of(text), request))) == ["app", "fresh"]


def test_an_alternative_that_holds_already_is_enough() -> None:
    assert rows(over("choosy", parent=there(LIB, CALM))) == {"choosy": ("", "1")}


def test_what_is_on_hold_stays() -> None:
    held = Package.parse(b"Package: lib\nStatus: hold ok installed\nVersion: 1\nArchitecture: amd64\n")
    with pytest.raises(ResolutionError):
        over("lib-dev", parent=(held,))


def test_nothing_of_the_parent_is_removed() -> None:
    with pytest.raises(ResolutionError) as caught:
        over("enemy", parent=there(LIB, CALM))
    assert "enemy 1 conflicts with calm" in str(caught.value)


def test_a_version_that_is_named_takes_the_place_of_the_parents() -> None:
    assert rows(over("calm=2", parent=there(CALM))) == {"calm": ("1", "2")}
    assert rows(over("lib=2", parent=there(LIB))) == {"lib": ("1", "2")}


def test_the_variant_adds_what_the_parent_lacks_and_upgrades_nothing() -> None:
    text = ARCHIVE + "\nPackage: needed\nVersion: 2\nArchitecture: amd64\nEssential: yes\n"
    text += "\nPackage: have\nVersion: 2\nArchitecture: amd64\nEssential: yes\n"
    request = Request(
        architecture="amd64", variant="essential", provided=there(("have", "1", "Essential: yes\n")), upgrades=True
    )
    assert [r.id for r in resolve(TextUniverse.of(text), request).packages] == ["needed"]


def test_the_order_of_the_status_file_does_not_matter() -> None:
    parent = there(LIB, CALM, ("lib-bin", "1", "Source: lib\n"), ("tied", "1", "Depends: lib (= 1)\n"))
    answers = {tuple(rows(over("lib-dev", parent=p)).items()) for p in itertools.permutations(parent)}
    assert len({tuple(sorted(a)) for a in answers}) == 1


def test_what_is_beside_a_root_on_a_parent_is_none_of_the_parents() -> None:
    parent = there(LIB, CALM)
    found = over("app", parent=parent)
    extra = beside(TextUniverse.of(ARCHIVE), found.request, found, ["lib-dev"], ["choosy"])
    assert [r.id for r in extra] == ["choosy", "lib-dev"]
