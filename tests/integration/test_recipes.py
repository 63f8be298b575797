"""Every recipe of the repository is built from the real archive, and what comes out is looked at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.building import ROOT, build, in_chroot, members, mkroot, needs_root, unpacked

pytestmark = pytest.mark.archive
RECIPES = sorted(p.stem for p in (ROOT / "recipes").glob("*.yaml") if "\nboot:" not in p.read_text())
WITH_APT = ("debian-12", "debian-min", "debian-slim", "debian-web", "python-app", "ubuntu-base", "ubuntu-jammy")
CHANGED = {"debian-web": ["??5?????? c /etc/nginx/sites-available/default"]}  # conffiles that the recipe replaces


@pytest.fixture(scope="module", params=RECIPES)
def built(request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A recipe's name, and the folder with its outputs."""
    out = tmp_path_factory.mktemp(request.param)
    build(f"recipes/{request.param}.yaml", out, store, "--output", "tar.zst", "--output", "oci")
    return request.param, out / request.param / "amd64"


def test_the_manifest_tells_the_truth(built: tuple[str, Path]) -> None:
    name, folder = built
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["name"] == name
    digest = subprocess.run(["sha256sum", folder / "rootfs.tar.zst"], capture_output=True, text=True).stdout[:64]
    assert {a["kind"]: a["digest"] for a in manifest["artifacts"]}["tar.zst"] == f"sha256:{digest}"
    found = members(folder / "rootfs.tar.zst")
    assert manifest["entries"] == len(found)
    assert len(manifest["packages"]) > 10


def test_dpkg_and_apt_find_nothing_wrong(built: tuple[str, Path], tmp_path: Path) -> None:
    needs_root()
    name, folder = built
    if name == "static":  # a distroless image has neither dpkg nor apt
        found = members(folder / "rootfs.tar.zst")
        assert not {"usr/bin/dpkg", "usr/bin/apt-get", "var/lib/dpkg/status"} & found.keys()
        return
    root = unpacked(folder / "rootfs.tar.zst", tmp_path / "root")
    told = in_chroot(root, "dpkg --audit", "dpkg --verify").splitlines()
    assert [line for line in told if line not in CHANGED.get(name, ())] == []
    if name in WITH_APT:
        assert "E:" not in in_chroot(root, "apt-get check")


def test_the_distroless_image_runs_without_a_shell(store: Path, tmp_path: Path) -> None:
    needs_root()
    build("recipes/static.yaml", tmp_path, store, "--output", "tar.zst")
    root = unpacked(tmp_path / "static/amd64/rootfs.tar.zst", tmp_path / "root")
    assert not (root / "usr/bin/sh").exists() and not (root / "usr/bin/dpkg").exists()
    assert (root / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 100_000
    assert "Package: libc6" in (root / "var/lib/dpkg/status.d/libc6").read_text()
    done = subprocess.run(["chroot", root, "/usr/bin/openssl", "version", "-d"], capture_output=True, text=True)
    assert done.returncode == 0 and "OPENSSLDIR" in done.stdout


@pytest.mark.parametrize("name", ["debian-min", "ubuntu-base"])
def test_apt_works_in_the_image(name: str, store: Path, tmp_path: Path) -> None:
    needs_root()
    build(f"recipes/{name}.yaml", tmp_path, store, "--output", "tar.zst")
    root = unpacked(tmp_path / name / "amd64/rootfs.tar.zst", tmp_path / "root")
    (root / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
    text = in_chroot(
        root,
        "apt-get -q update",
        "DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends hello",
        "hello",
    )
    assert "Hello, world!" in text


def test_the_web_recipe_is_set_up(store: Path, tmp_path: Path) -> None:
    build("recipes/debian-web.yaml", tmp_path, store, "--output", "tar.zst")
    found = members(tmp_path / "debian-web/amd64/rootfs.tar.zst")
    wants = [p for p in found if p.startswith("etc/systemd/system/multi-user.target.wants/")]
    assert {p.rpartition("/")[2] for p in wants} >= {"nginx.service", "ssh.service"}
    assert not [p for p in found if p.startswith("etc/ssh/ssh_host_")]
    assert found["etc/machine-id"][0] == "file"


@pytest.mark.parametrize(
    ("machine", "holds", "why"),
    [("nvme", True, "built in"), ("q35", False, "virtio_blk is a module of kernel")],
)
def test_the_plan_tells_whether_a_kernel_needs_no_initramfs(
    machine: str, holds: bool, why: str, store: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "bare.yaml"
    recipe.write_text(
        "version: 1\nname: bare\ndistro: debian\nsuite: trixie\n"
        "packages: {variant: none, include: [tiny-initramfs]}\nconfigure: none\n"
        f"boot: {{kernel: linux-image-cloud-amd64, loader: systemd-boot, initramfs: none, machine: {machine}}}\n"
    )
    done = mkroot("plan", recipe, "--json", store=store)
    found = json.loads(done.stdout)["unaided"]["amd64"]
    assert (found["machine"], found["holds"]) == (machine, holds)
    assert why in found["why"][0]
    assert why in mkroot("plan", recipe, store=store).stderr
