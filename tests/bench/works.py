"""The pieces of work that are measured: what mkroot does, and what its peers do with the same packages."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Contender

ROOT = Path(__file__).parents[2]
MKROOT = str(Path(sys.executable).with_name("mkroot"))
PEERS = ("mmdebstrap", "debootstrap", "apt-get", "dpkg-deb", "xz", "zstd", "cp", "sha256sum", "chroot")
PLANNED = ("openssh-server", "nginx", "python3")


@dataclass(frozen=True)
class Release:
    """A suite to build. archives: (URL's folder, suite, components) for apt's sources."""

    name: str
    distro: str
    suite: str
    archives: tuple[tuple[str, str, str], ...]


DEBIAN = Release(
    "Debian 13",
    "debian",
    "trixie",
    (
        ("debian", "trixie", "main"),
        ("debian", "trixie-updates", "main"),
        ("debian-security", "trixie-security", "main"),
    ),
)
UBUNTU = Release(
    "Ubuntu 24.04",
    "ubuntu",
    "noble",
    (("ubuntu", "noble", "main"), ("ubuntu", "noble-updates", "main"), ("ubuntu", "noble-security", "main")),
)


class Site:
    """The folder and the loopback mirror that all contenders share."""

    def __init__(self, work: Path, port: int) -> None:
        self.work = work
        self.base = f"http://127.0.0.1:{port}"
        self.log = work / "log"
        for distro in ("debian", "ubuntu"):
            shutil.copy(ROOT / "mkroot" / "archive" / "keys" / f"{distro}.pgp", work / f"{distro}.gpg")

    def environ(self, store: Path | None = None) -> dict[str, str]:
        """Return mkroot's environment: the loopback mirror, and a store."""
        return {
            "MKROOT_STORE": str(store or self.work / "store"),
            "MKROOT_CONFIG": str(self._config()),
            "MKROOT_MIRROR_DEBIAN": f"{self.base}/debian",
            "MKROOT_MIRROR_UBUNTU": f"{self.base}/ubuntu",
        }

    def _config(self) -> Path:
        path = self.work / "config.toml"
        path.write_text(f'[mirrors]\ndebian-security = "{self.base}/debian-security"\n')
        return path

    def recipe(self, release: Release, name: str, /, **more: object) -> Path:
        """Write a recipe (JSON is YAML) and return its path."""
        path = self.work / f"{name}.yaml"
        data: dict[str, object] = {
            "version": 1,
            "name": name,
            "distro": release.distro,
            "suite": release.suite,
            "packages": {"variant": "minbase"},
            "outputs": ["tar.zst", "oci"],
        }
        path.write_text(json.dumps(data | more))
        return path

    def sources(self, release: Release, components: str = "") -> list[str]:
        """Return apt's lines for the release."""
        keys = self.work / f"{release.distro}.gpg"
        return [f"deb [signed-by={keys}] {self.base}/{a} {s} {components or c}" for a, s, c in release.archives]


def cold(site: Site, release: Release) -> list[Contender]:
    """An empty store and no output, against mmdebstrap to a tar and debootstrap to a folder."""
    out = site.work / "out"
    build = [MKROOT, "build", "-o", str(out)]
    gzip = site.recipe(release, f"{release.suite}-gzip")
    zstd = site.recipe(release, f"{release.suite}-zstd", image={"compression": "zstd"})
    fresh = [site.work / "store", out]
    environ = site.environ()
    tar = site.work / "peer.tar"
    folder = site.work / "peer"
    found = [
        Contender("mkroot", [[*build, "--locked", str(gzip)]], environ, fresh),
        Contender("mkroot, image in zstd", [[*build, "--locked", str(zstd)]], environ, fresh),
        Contender("mkroot, no lock yet", [[*build, str(gzip)]], environ, [*fresh, gzip.with_suffix(".lock")]),
        Contender(
            "mmdebstrap",
            [
                [
                    "mmdebstrap",
                    "--quiet",
                    "--mode=root",
                    "--variant=minbase",
                    release.suite,
                    str(tar),
                    *site.sources(release),
                ]
            ],
            {"TMPDIR": str(site.work)},
            [tar],
        ),
    ]
    if Path("/usr/share/debootstrap/scripts", release.suite).exists():
        keys = f"--keyring={site.work / f'{release.distro}.gpg'}"
        mirror = f"{site.base}/{release.distro}"
        found.append(
            Contender(
                "debootstrap",
                [["debootstrap", "--variant=minbase", keys, release.suite, str(folder), mirror]],
                fresh=[folder],
            )
        )
    return found


def warm(site: Site, release: Release) -> list[Contender]:
    """A store that knows everything; then outputs that are there already."""
    out = site.work / "warm"
    environ = site.environ(site.work / f"store-{release.suite}")
    gzip, zstd = site.work / f"{release.suite}-gzip.yaml", site.work / f"{release.suite}-zstd.yaml"
    return [
        Contender("mkroot", [[MKROOT, "build", "-o", str(out), str(gzip)]], environ, [out]),
        Contender("mkroot, nothing changed", [[MKROOT, "build", "-o", str(out), str(gzip)]], environ),
        Contender(
            "mkroot, image in zstd", [[MKROOT, "build", "-o", str(out), str(zstd)]], environ, [out / f"{zstd.stem}"]
        ),
        _copy(site, out / zstd.stem),
    ]


def _copy(site: Site, result: Path) -> Contender:
    copy = site.work / "copy"
    sums = f"cp -r {result} {copy} && find {copy} -type f -exec sha256sum {{}} + >/dev/null"
    return Contender("floor: cp and sha256sum of the result", [["sh", "-c", sums]], fresh=[copy])


def floors(site: Site, release: Release) -> list[Contender]:
    """What no program that unpacks and configures these packages can be faster than."""
    data = _data(site, release)
    unpack = f"printf '%s\\0' {data}/*.xz | xargs -0 -n1 -P{os.cpu_count()} xz -dc >/dev/null"
    if not any(data.glob("*.xz")):
        unpack = f"printf '%s\\0' {data}/*.zst | xargs -0 -n1 -P{os.cpu_count()} zstd -qdc >/dev/null"
    root, copy = _unpacked(site), site.work / "configure"
    environ = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
    return [
        Contender(f"floor: decompress the packages on {os.cpu_count()} processors", [["sh", "-c", unpack]]),
        Contender(
            "floor: dpkg --configure of the packages",
            [["chroot", str(copy), "dpkg", "--force-unsafe-io", "--configure", "-a"]],
            environ,
            [copy],
            lambda: copied(root, copy),
        ),
    ]


def copied(root: Path, copy: Path) -> None:
    subprocess.run(["cp", "-a", root, copy], check=True)
    (copy / "dev").mkdir(exist_ok=True)
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        if not (copy / "dev" / name).exists():
            os.mknod(copy / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))


def _locked(site: Site, release: Release) -> list[dict[str, str]]:
    lock = json.loads((site.work / f"{release.suite}-gzip.lock").read_bytes())
    return list(lock["architectures"]["amd64"]["packages"])


def _data(site: Site, release: Release) -> Path:
    """Take the compressed data members out of the lock's packages."""
    folder = site.work / f"data-{release.suite}"
    folder.mkdir(exist_ok=True)
    debs = site.work / f"store-{release.suite}" / "debs"
    for package in _locked(site, release):
        deb = debs / package["sha256"][:2] / package["sha256"]
        names = subprocess.run(["ar", "t", deb], check=True, capture_output=True, text=True).stdout.split()
        member = next(n for n in names if n.startswith("data.tar"))
        with open(folder / f"{package['name']}{Path(member).suffix}", "wb") as out:
            subprocess.run(["ar", "p", deb, member], check=True, stdout=out)
    return folder


def _unpacked(site: Site) -> Path:
    """Return mmdebstrap's root with every package set back to unpacked, so that only configuring is left."""
    root = site.work / "unpacked"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xpf", site.work / "peer.tar"], check=True)
    status = root / "var/lib/dpkg/status"
    status.write_text(status.read_text().replace("Status: install ok installed", "Status: install ok unpacked"))
    return root


def plans(site: Site) -> list[Contender]:
    """Deciding what to install from Ubuntu's main and universe: indices known, and nothing known."""
    packages = {"variant": "minbase", "include": list(PLANNED)}
    recipe = site.recipe(UBUNTU, "plan", components=["main", "universe"], packages=packages)
    known, first = site.work / "plan-store", site.work / "plan-first"
    plan = [MKROOT, "plan", "--json", "--no-lock", str(recipe)]
    root = site.work / "apt"
    return [
        Contender("mkroot plan, indices known", [plan], site.environ(known)),
        Contender("mkroot plan, indices known, offline", [[*plan, "--offline"]], site.environ(known)),
        Contender("apt-get -s, indices known", [_apt(site, root, "known")], {"APT_CONFIG": str(root / "known.conf")}),
        Contender("mkroot plan, first time", [plan], site.environ(first), [first]),
        Contender(
            "apt-get update and -s, first time",
            [["apt-get", "-qq", "update"], _apt(site, root, "first")],
            {"APT_CONFIG": str(root / "first.conf")},
            [root / "first"],
            lambda: _apt_root(site, root, "first"),
        ),
    ]


def _apt(site: Site, root: Path, name: str) -> Sequence[str]:
    _apt_root(site, root, name)
    wanted = ["?essential", "?priority(required)", *PLANNED]
    return ["apt-get", "-qq", "-s", "--no-install-recommends", "install", *wanted]


def _apt_root(site: Site, root: Path, name: str) -> None:
    """Make an empty root with the same sources for apt."""
    folder = root / name
    for part in (
        "etc/apt/preferences.d",
        "etc/apt/apt.conf.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/lib/dpkg",
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "var/lib/dpkg/status").touch()
    (folder / "etc/apt/sources.list").write_text("\n".join(site.sources(UBUNTU, "main universe")) + "\n")
    (root / f"{name}.conf").write_text(
        f'Dir "{folder}";\nDir::State::status "{folder}/var/lib/dpkg/status";\nAPT::Architecture "amd64";\n'
        'APT::Architectures {"amd64";};\nAcquire::Languages "none";\nAPT::Sandbox::User "root";\n'
    )


def starts(site: Site) -> list[Contender]:
    """From nothing to the program's first word."""
    recipe = site.work / "noble-gzip.yaml"
    return [
        Contender("mkroot --version", [[MKROOT, "--version"]], site.environ()),
        Contender("mkroot check", [[MKROOT, "check", str(recipe)]], site.environ()),
        Contender("floor: python -c pass", [[sys.executable, "-c", "pass"]]),
    ]
