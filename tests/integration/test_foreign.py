"""Roots of foreign architectures from the real archive: their scripts by an emulator, the same bytes for every user."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from mkroot.rootfs import foreign
from tests.integration.building import as_user, differences, members, mkroot, needs, needs_root, ordinary_user

pytestmark = pytest.mark.archive
ALL = ("amd64", "arm64", "armhf", "i386", "ppc64el", "riscv64", "s390x")
MACHINE = {  # uname -m; i386 and armhf say what the kernel under them says, where the processor runs them
    "amd64": ("x86_64",), "arm64": ("aarch64",), "armhf": ("armv7l", "aarch64"), "i386": ("i686", "x86_64"),
    "ppc64el": ("ppc64le",), "riscv64": ("riscv64",), "s390x": ("s390x",),
}  # fmt: skip
PLATFORM = {
    "amd64": ("amd64", ""), "arm64": ("arm64", "v8"), "armhf": ("arm", "v7"), "i386": ("386", ""),
    "ppc64el": ("ppc64le", ""), "riscv64": ("riscv64", ""), "s390x": ("s390x", ""),
}  # fmt: skip
RECIPE = """version: 1
name: far
distro: {distro}
suite: {suite}
pockets: []
arch: [{arch}]
packages: {{variant: none, include: [{include}]}}
configure: {configure}
outputs: [{outputs}]
{hooks}image: {{tags: ["far:{configure}"], cmd: [/usr/bin/true]}}
"""
# Much of Essential, with shells, Perl's own and C's scripts, alternatives, diversions, users and a capability; without
# debconf, whose Perl takes an emulator seconds each time.
SCRIPTED = (
    "dpkg, dash, bash, coreutils, diffutils, sed, grep, findutils, tar, libc-bin, base-passwd, base-files, "
    "debianutils, mawk, hostname, perl-base, libcap2-bin"
)
HOOK = """
install -d -o 7 -g 8 -m 2775 /srv/made
setcap cap_net_raw+ep /srv/made/true 2>/dev/null && exit 1
cp /usr/bin/true /srv/made/true
cp /usr/bin/id /srv/made/id && chmod 4755 /srv/made/id
setcap cap_net_raw+ep /srv/made/true
printf '#!/bin/sh\n' >/srv/made/set && chown 33:33 /srv/made/set && chmod 6755 /srv/made/set
perl -e 'print join(" ", $>, (stat "/srv/made")[4, 5], unpack("V", pack("L", 1)) ), "\n"' >/srv/made/perl
"""
# What may differ between two architectures: programs, their folders, and what names either.
OWN = (
    "/usr/bin/*", "/usr/sbin/*", "/usr/lib/*", "/usr/libexec/*", "/lib64", "/usr/lib64", "/usr/lib64/*",
    "/etc/ld.so.cache", "/etc/ld.so.conf.d/*", "/var/cache/ldconfig/*", "/var/lib/dpkg/arch*", "/var/lib/dpkg/status*",
    "/var/lib/dpkg/info/*", "/var/lib/dpkg/diversions*", "/var/lib/dpkg/triggers/*", "/usr/share/doc/*",
    "/usr/share/man/*", "/usr/share/lintian/*", "/usr/share/gdb/*", "/usr/share/perl5/*",
)  # fmt: skip


def recipe(folder: Path, name: str, configure: str, architectures: tuple[str, ...], **more: str) -> Path:
    """Write a recipe for Debian 13, or what `more` says."""
    values = {"distro": "debian", "suite": "trixie", "include": SCRIPTED, "outputs": "tar, oci", **more}
    values["hooks"] = "hooks: [{at: configured, run: ./hook.sh}]\n" if configure == "scripts" else ""
    (folder / "hook.sh").write_text(HOOK)
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(arch=", ".join(architectures), configure=configure, **values))
    return path


def runnable(*architectures: str) -> None:
    """Skip the test where programs of one do not run here."""
    for name, way in foreign.ways(architectures).items():
        if isinstance(way, foreign.Missing):
            pytest.skip(f"{name}: {way.why}")


@pytest.mark.parametrize(("configure", "suite"), [("none", "trixie"), ("static", "bookworm")])
def test_without_scripts_every_architecture_is_built_anywhere(
    configure: str, suite: str, store: Path, tmp_path: Path
) -> None:
    architectures = ALL if suite == "trixie" else tuple(name for name in ALL if name != "riscv64")  # new in Debian 13
    include = "busybox-static, hostname" if configure == "static" else "busybox-static"
    path = recipe(tmp_path, configure, configure, architectures, include=include, suite=suite)
    done = mkroot("build", path, "-o", tmp_path / "out", "--no-lock", "--json", store=store)
    assert [b["architecture"] for b in json.loads(done.stdout)["builds"]] == list(architectures)
    for name in architectures:
        found = members(tmp_path / f"out/far/{name}/rootfs.tar")
        assert {"bin/busybox", "usr/bin/busybox"} & found.keys()
        assert ("etc/ld.so.cache" in found) == (configure == "static")
        if not isinstance(foreign.how(name), foreign.Missing):
            words = ("run", "--rm", "--arch", name, "--network", "none", f"far:{configure}")
            told = mkroot(*words, "/bin/busybox", "uname", "-m", store=store)
            assert told.stdout.strip() in MACHINE[name]


def test_ubuntus_ports_are_another_archive(store: Path, tmp_path: Path) -> None:
    path = recipe(
        tmp_path, "u", "static", ("arm64",), distro="ubuntu", suite="noble", include="hostname", outputs="tar"
    )
    done = mkroot("build", path, "-o", tmp_path / "out", "--no-lock", store=store, check=False)
    if "MKROOT_MIRROR_UBUNTU_PORTS" in done.stderr or "no connection" in done.stderr:
        pytest.skip(f"no archive of Ubuntu's ports answers here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    assert "usr/bin/hostname" in members(tmp_path / "out/far/arm64/rootfs.tar")


@pytest.fixture(scope="module")
def built(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one recipe, with its scripts run, for this host's architecture and others."""
    runnable("arm64", "riscv64", "i386")
    folder = tmp_path_factory.mktemp("foreign")
    path = recipe(folder, "far", "scripts", ("arm64", "riscv64", "i386", "amd64"), outputs="tar, oci, docker-archive")
    mkroot("build", path, "-o", folder, "--no-lock", store=store)
    return folder / "far"


@pytest.mark.counts("rebuild")
@pytest.mark.parametrize("name", ["arm64", "riscv64", "i386"])
def test_what_scripts_write_is_what_they_write_natively(built: Path, name: str) -> None:
    there, here = members(built / name / "rootfs.tar"), members(built / "amd64/rootfs.tar")
    assert differences(there, here, (*OWN, "/srv/made/true", "/srv/made/id")) == []
    for path in ("etc/passwd", "etc/group", "etc/alternatives/awk", "var/lib/dpkg/alternatives/awk", "etc/shells"):
        assert there[path] == here[path]
    kept = ("mode", "uid", "gid")
    marked = {p: dict(zip(kept, m[1:4])) for p, m in there.items() if m[1] & 0o7000 and p in here}
    assert marked and marked == {p: dict(zip(kept, here[p][1:4])) for p in marked}
    xattrs = {p: m[5] for p, m in there.items() if m[5]}
    assert xattrs == {p: m[5] for p, m in here.items() if m[5]}
    assert list(xattrs) == ["srv/made/true"]
    assert [there[f"srv/made/{n}"][1:4] for n in ("set", "true")] == [(0o6755, 33, 33), (0o755, 0, 8)]
    assert there["srv/made/perl"] == here["srv/made/perl"]
    assert not [p for p in there if "qemu" in p or ".mkroot" in p]


@pytest.mark.parametrize("name", ["arm64", "riscv64", "i386"])
def test_dpkg_finds_nothing_wrong_and_the_image_runs(built: Path, store: Path, name: str) -> None:
    run = ("run", "--rm", "--arch", name, "--network", "none")
    commands = "uname -m; dpkg --print-architecture; dpkg --audit; dpkg --verify; awk 'BEGIN { print 1 + 1 }'; echo $0"
    done = mkroot(*run, "far:scripts", "sh", "-c", commands, store=store)
    machine, *rest = done.stdout.split()
    assert machine in MACHINE[name]
    assert rest == [name, "2", "sh"]  # its name as it was called
    assert mkroot(*run, "--user", "65534", "far:scripts", "/srv/made/id", "-u", store=store).stdout == "0\n"  # setuid
    assert mkroot(*run, "far:scripts", "sh", "-c", "exit 7", store=store, check=False).returncode == 7
    assert mkroot(*run, "far:scripts", "nothing", store=store, check=False).returncode == 127


def test_a_container_makes_devices_as_a_native_one_does(built: Path, store: Path) -> None:
    commands = "umask 027; mknod /n c 1 3; stat -c %A:%t:%T:%u /n; cat /n; mknod /z c 0 0; mkfifo /p && stat -c %A /p"
    told = []
    for name in ("amd64", "arm64"):
        words = ("run", "--rm", "--arch", name, "--network", "none", "far:scripts", "sh", "-c", commands)
        done = mkroot(*words, store=store)
        told.append((done.returncode, done.stdout, done.stderr.lower()))
    assert told[0] == told[1]
    assert "prw-r-----" in told[1][1]


@pytest.mark.counts("rebuild")
def test_an_ordinary_user_makes_the_same_bytes(built: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    user = ordinary_user()
    home = Path(
        subprocess.run(
            ["mktemp", "-d", "/var/tmp/mkroot-foreign.XXXXXX"], capture_output=True, text=True
        ).stdout.strip()
    )
    try:
        path = recipe(home, "far", "scripts", ("arm64",), outputs="tar")
        subprocess.run(["chown", "-R", f"{user}:", home], check=True)
        before = as_user(user, mirrors(home / "store"))
        subprocess.run([*before, "build", path, "-o", home / "out", "--no-lock"], check=True, cwd="/")
        digest = hashlib.sha256((home / "out/far/arm64/rootfs.tar").read_bytes()).hexdigest()
        assert digest == hashlib.sha256((built / "arm64/rootfs.tar").read_bytes()).hexdigest()
    finally:
        subprocess.run(["rm", "-rf", home], check=True)


def mirrors(store: Path) -> dict[str, str]:
    """Return what an ordinary user needs of this environment."""
    import os

    return {k: v for k, v in os.environ.items() if k.startswith("MKROOT_MIRROR")} | {"MKROOT_STORE": str(store)}


def test_one_index_names_every_platform(built: Path, store: Path) -> None:
    index = json.loads((store / "oci/index.json").read_text())
    tagged = [
        m
        for m in index["manifests"]
        if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == "far:scripts"
    ]
    assert len(tagged) == 1
    assert tagged[0]["mediaType"] == "application/vnd.oci.image.index.v1+json"
    blob = json.loads((store / "oci/blobs/sha256" / tagged[0]["digest"].removeprefix("sha256:")).read_text())
    found = {(m["platform"]["architecture"], m["platform"].get("variant", "")) for m in blob["manifests"]}
    assert found == {PLATFORM[name] for name in ("arm64", "riscv64", "i386", "amd64")}


def test_other_tools_read_the_index_and_each_docker_archive(built: Path, store: Path, tmp_path: Path) -> None:
    needs("skopeo")
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{store}/oci:far:scripts"], capture_output=True, check=True
    )
    assert len(json.loads(raw.stdout)["manifests"]) == 4
    for name, variant in (("arm64", "v8"), ("riscv64", "")):
        words = ["skopeo", "--override-arch", name, "copy", f"oci:{store}/oci:far:scripts", f"dir:{tmp_path}/{name}"]
        subprocess.run(words, check=True, capture_output=True)
        archive = f"docker-archive:{built}/{name}/docker.tar"
        told = subprocess.run(["skopeo", "inspect", "--config", archive], capture_output=True, check=True)
        config = json.loads(told.stdout)
        assert (config["architecture"], config.get("variant", "")) == (name, variant)


def test_podman_takes_the_platform_that_it_is_asked_for(built: Path, store: Path, tmp_path: Path) -> None:
    needs("podman")
    needs_root()
    with tempfile.TemporaryDirectory(prefix="mkroot-") as short:  # podman's runroot has at most 50 characters
        podman = ["podman", "--root", str(tmp_path / "p"), "--runroot", short, "--storage-driver", "vfs"]
        words = [*podman, "pull", "-q", "--arch", "arm64", f"oci:{store}/oci:far:scripts"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = subprocess.run([*podman, "image", "inspect", done.stdout.strip()], capture_output=True, check=True)
    assert json.loads(told.stdout)[0]["Architecture"] == "arm64"
