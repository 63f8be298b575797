"""The miniature archive itself: the field's own tools read it, and it is the same bytes every time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mkroot.digest import sha256
from tests.testarchive import Archive, Built, File, ar, member
from tests.testarchive.deb import Raw, tar


def filled(root: Path, **more: object) -> tuple[Archive, Built]:
    archive = Archive(root, **more)  # type: ignore[arg-type]
    built = archive.add(
        "hello",
        "1:1.0-1",
        architecture="amd64",
        files={"usr/bin/hello": File(content=b"#!/bin/sh\n", mode=0o755), "etc/hello.conf": b"x\n"},
        symlinks={"usr/bin/hi": "hello"},
        hardlinks={"usr/bin/hey": "usr/bin/hello"},
        dirs={"var/lib/hello": 0o750},
        devices={"dev/hello": ("c", 1, 3, 0o666)},
        fifos=["run/hello"],
        scripts={"postinst": "#!/bin/sh\nexit 0\n"},
        conffiles=["/etc/hello.conf"],
        depends="base (>= 1)",
        multi_arch="foreign",
        compression="zst",
    )
    archive.add("base", "1.0", essential=True)
    return archive, built


def contents(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256(p.read_bytes()) for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        filled(tmp_path / name)[0].publish()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is the judge here")
@pytest.mark.parametrize("compression", ["xz", "gz", "zst", "none"])
def test_dpkg_deb_reads_the_packages(tmp_path: Path, compression: str) -> None:
    archive, built = filled(tmp_path)
    if compression != "zst":
        built = archive.add("other", "2.0", files={"usr/share/x": b"y"}, compression=compression)
    control = subprocess.run(["dpkg-deb", "-f", built.path], capture_output=True, text=True, check=True).stdout
    assert control == built.control
    listing = subprocess.run(["dpkg-deb", "-c", built.path], capture_output=True, text=True, check=True).stdout
    names = [line.split(" ./", 1)[1].split(" ")[0] for line in listing.splitlines()]
    if compression == "zst":
        assert {"usr/bin/hello", "usr/bin/hi", "usr/bin/hey", "var/lib/hello/", "dev/hello", "run/hello"} <= set(names)
        assert names.index("usr/") < names.index("usr/bin/") < names.index("usr/bin/hello")


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="apt is the judge here")
@pytest.mark.parametrize("distro", ["debian", "ubuntu"])
def test_apt_takes_it_for_an_archive(tmp_path: Path, distro: str) -> None:
    archive, _ = filled(tmp_path / "archive", distro=distro)
    archive.add("hello", "1:1.1-1", architecture="amd64", suite=f"{archive.codename}-security", depends="base")
    root = tmp_path / "root"
    for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg"):
        (root / folder).mkdir(parents=True)
    for folder in ("var/cache/apt/archives/partial", "etc/apt/trusted.gpg.d", "etc/apt/sources.list.d"):
        (root / folder).mkdir(parents=True)
    (root / "var/lib/dpkg/status").write_text("")
    security = "debian-security" if distro == "debian" else distro
    lines = [
        f"deb [signed-by={archive.keyring}] file:{archive.root}/{tree} {archive.codename}{pocket} main\n"
        for tree, pocket in ((distro, ""), (distro, "-updates"), (security, "-security"))
    ]
    (root / "etc/apt/sources.list").write_text("".join(lines))
    archive.publish()
    options = ["-o", f"Dir={root}", "-o", f"Dir::State::status={root}/var/lib/dpkg/status"]
    options += ["-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64", "-o", "APT::Sandbox::User=root"]
    options += ["-o", "Acquire::Languages=none", "-o", "Dir::Etc::parts=/nonexistent"]
    update = subprocess.run(["apt-get", *options, "update"], capture_output=True, text=True)
    assert update.returncode == 0, update.stderr
    assert "W:" not in update.stderr and "E:" not in update.stderr, update.stderr
    install = subprocess.run(["apt-get", *options, "-s", "install", "hello"], capture_output=True, text=True)
    assert "Inst hello (1:1.1-1 " in install.stdout, install.stdout + install.stderr
    assert "Inst base (1.0 " in install.stdout


def test_hostile_members_are_written_as_given(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    built = archive.add("evil", raw=[Raw(member("../../etc/passwd"), b"root::0:0")], compression="none")
    assert b"../../etc/passwd" in built.path.read_bytes()
    swapped = archive.add("swapped", control=lambda text: text.replace("swapped", "other"), compression="none")
    assert "Package: swapped" in swapped.stanza
    assert b"Package: other" in swapped.path.read_bytes()
    lying = archive.add("lying", index={"Size": "1", "SHA256": None})
    assert "Size: 1\n" in lying.stanza and "SHA256" not in lying.stanza
    cut = archive.add("cut", data_member=b"\xfd7zXZ\0")
    assert cut.size < 1000
    assert ar([("a", b"x")]).endswith(b"x\n") and len(tar([])) % 512 == 0
