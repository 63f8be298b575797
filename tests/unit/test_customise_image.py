"""What an image may not carry, and the apt sources that it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mkroot.errors import RecipeError
from mkroot.rootfs.apt_sources import Source, Stanza, archive_stanzas, write_apt_sources
from mkroot.rootfs.scrub import leftovers, scrub
from tests.unit.roots import changes, debian, systemd, tree_of

TRACES: dict[str, str | bytes] = {
    "etc/ssh/ssh_host_rsa_key": "secret",
    "etc/ssh/ssh_host_rsa_key.pub": "public",
    "etc/ssh/sshd_config": "c",
    "etc/ssl/private/ssl-cert-snakeoil.key": "secret",
    "etc/ssl/certs/ssl-cert-snakeoil.pem": "public",
    "etc/ssl/certs/62742064.0": "-> ssl-cert-snakeoil.pem",
    "etc/ssl/certs/0a775a30.0": "-> GTS.pem",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "var/lib/dbus/machine-id": "-> /etc/machine-id",
    "var/lib/systemd/random-seed": "seed",
    "var/log/dpkg.log": "2026-01-01",
    "var/log/apt/term.log": "x",
    "var/log/journal/0123/system.journal": "x",
    "var/log/lastlog": "",
    "var/cache/apt/pkgcache.bin": "x",
    "var/cache/apt/archives/a.deb": "x",
    "var/cache/apt/archives/lock": "",
    "var/lib/apt/lists/lock": "",
    "var/lib/apt/lists/mirror.example_Packages": "x",
    "var/lib/apt/lists/partial/": "",
    "var/cache/debconf/config.dat-old": "x",
    "run/lock/subsys/": "",
    "run/sshd/": "",
    "tmp/x/y": "x",
    "usr/sbin/sshd": "x!",
    "usr/bin/ssh-keygen": "x!",
    "usr/sbin/make-ssl-cert": "x!",
}


def test_identities_and_traces_go_and_the_first_boot_makes_new_ones(tmp_path: Path) -> None:
    before = tree_of(tmp_path, systemd() | TRACES)
    tree = before.copy()
    origins = scrub(tree)
    assert changes(before, tree) == [
        "f 0644 0:0 etc/machine-id",
        "- etc/ssh/ssh_host_rsa_key",
        "- etc/ssh/ssh_host_rsa_key.pub",
        "- etc/ssl/certs/62742064.0",
        "- etc/ssl/certs/ssl-cert-snakeoil.pem",
        "- etc/ssl/private/ssl-cert-snakeoil.key",
        "d 0755 0:0 etc/systemd",
        "d 0755 0:0 etc/systemd/system",
        "f 0644 0:0 etc/systemd/system/mkroot-snakeoil.service",
        "f 0644 0:0 etc/systemd/system/mkroot-ssh-host-keys.service",
        "d 0755 0:0 etc/systemd/system/multi-user.target.wants",
        "l 0777 0:0 etc/systemd/system/multi-user.target.wants/mkroot-ssh-host-keys.service -> "
        "/etc/systemd/system/mkroot-ssh-host-keys.service",
        "d 0755 0:0 etc/systemd/system/sysinit.target.wants",
        "l 0777 0:0 etc/systemd/system/sysinit.target.wants/mkroot-snakeoil.service -> "
        "/etc/systemd/system/mkroot-snakeoil.service",
        "- run/sshd",
        "- tmp/x",
        "- tmp/x/y",
        "- var/cache/apt/archives/a.deb",
        "- var/cache/apt/pkgcache.bin",
        "- var/lib/apt/lists/mirror.example_Packages",
        "- var/lib/dbus/machine-id",
        "- var/lib/systemd/random-seed",
        "- var/log/apt/term.log",
        "- var/log/dpkg.log",
        "- var/log/journal/0123",
        "- var/log/journal/0123/system.journal",
    ]
    assert tree.read("etc/machine-id") == b""
    assert leftovers(tree) == []
    assert origins["etc/ssh/ssh_host_rsa_key"].startswith("mkroot: scrub: SSH host key")
    again = tree.copy()
    assert scrub(again) == {}


def test_no_unit_where_the_distribution_makes_keys_itself_or_there_is_no_systemd(tmp_path: Path) -> None:
    own = {"usr/lib/systemd/system/sshd-keygen.service": "[Service]\nExecStart=ssh-keygen -A\n"}
    tree = tree_of(tmp_path, systemd() | TRACES | own)
    assert not [p for p in scrub(tree) if "mkroot-ssh" in p]
    first = {
        "usr/lib/systemd/system/sshd-keygen.service": "[Unit]\nConditionFirstBoot=1\n[Service]\nExecStart=ssh-keygen\n"
    }
    tree = tree_of(tmp_path, systemd() | TRACES | first)
    assert [p for p in scrub(tree) if "mkroot-ssh" in p]
    tree = tree_of(tmp_path, debian() | TRACES)
    assert not [p for p in scrub(tree) if "etc/systemd" in p]


def test_a_machine_id_stands_ready_where_systemd_is(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, systemd())
    scrub(tree)
    assert tree.read("etc/machine-id") == b""
    tree = tree_of(tmp_path, debian())
    scrub(tree)
    assert not tree.exists("etc/machine-id")


APT: dict[str, str | bytes] = {"usr/bin/apt-get": "x!", "usr/share/keyrings/debian-archive-keyring.gpg": b"\x99keys"}


def test_debian_with_its_security_archive(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, debian() | APT)
    stanzas = archive_stanzas(
        "debian",
        "http://user:word@mirror.example/debian",
        "trixie",
        ["main", "contrib"],
        ["updates", "security"],
        "http://mirror.example/debian-security",
    )
    origins = write_apt_sources(tree, "debian", [Source(name="debian", stanzas=stanzas)])
    assert origins == {"etc/apt": "recipe: apt.mirror", "etc/apt/sources.list.d": "recipe: apt.mirror"} | {
        "etc/apt/sources.list.d/debian.sources": "recipe: apt.mirror"
    }
    assert tree.read("etc/apt/sources.list.d/debian.sources").decode() == (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\nComponents: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        "\n"
        "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: trixie-security\nComponents: main contrib\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_ubuntu_has_its_security_suite_in_the_same_archive() -> None:
    (stanza,) = archive_stanzas(
        "ubuntu", "http://mirror.example/ubuntu", "noble", ["main"], ["updates", "security"], None
    )
    assert stanza.suites == ("noble", "noble-updates", "noble-security")


def test_a_kept_source_brings_its_key(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, debian() | APT)
    armoured, binary = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nx\n", b"\x99\x01"
    sources = [
        Source(name="a", stanzas=(Stanza(uri="https://mirror.example/a", suites=("./",), key=armoured),)),
        Source(
            name="b", stanzas=(Stanza(uri="https://mirror.example/b", suites=("s",), components=("m",), key=binary),)
        ),
        Source(name="c", stanzas=(Stanza(uri="file:/srv/c", suites=("s",), components=("m",), trusted=True),)),
    ]
    write_apt_sources(tree, "debian", sources)
    assert tree.read("etc/apt/keyrings/a.asc") == armoured
    assert tree.read("etc/apt/keyrings/b.gpg") == binary
    assert b"Components" not in tree.read("etc/apt/sources.list.d/a.sources")
    assert b"Trusted: yes" in tree.read("etc/apt/sources.list.d/c.sources")
    assert b"Signed-By" not in tree.read("etc/apt/sources.list.d/c.sources")


def test_an_image_without_apt_gets_no_sources_and_one_without_keys_an_error(tmp_path: Path) -> None:
    sources = [Source(name="debian", stanzas=(Stanza(uri="http://mirror.example", suites=("s",)),))]
    assert write_apt_sources(tree_of(tmp_path, debian()), "debian", sources) == {}
    with pytest.raises(RecipeError, match="debian-archive-keyring"):
        write_apt_sources(tree_of(tmp_path, debian() | {"usr/bin/apt-get": "x!"}), "debian", sources)
