"""Every recipe that boots is built from the real archive and booted; the guest's own verdict counts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.building import MKROOT, ROOT, build, mkroot

pytestmark = [pytest.mark.archive, pytest.mark.boot]
# Of each: how the root is mounted, and what the initramfs may have at most (bytes, unpacked), None where there is none.
RECIPES = {
    "debian-micro": ("ext4", 4 << 20),
    "debian-vm": ("ext4", 4 << 20),
    "debian-uki": ("overlay", 4 << 20),
    "debian-nvme": (None, None),
    "debian-live": ("overlay", 16 << 20),
    "ubuntu-vm": ("ext4", 4 << 20),
}
INITRAMFS = 2 << 20  # bytes, packed: a virtio machine with the cloud kernel
FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.fd"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key pair of the test's own; the recipes take the public half."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    path = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module", params=RECIPES)
def built(
    request: pytest.FixtureRequest, key: Path, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, list[str]]]:
    """A recipe's name, the folder with its outputs, and the words that define its key."""
    for tool in ("qemu-system-x86_64", "qemu-img", "mcopy", "mke2fs", "sqfstar", "mkfs.erofs"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{tool} is not installed")
    if not Path(FIRMWARE).exists():
        pytest.skip("the firmware of UEFI machines (package ovmf) is not installed")
    name = request.param
    defines = [] if name == "debian-micro" else ["-D", f"key={key}.pub"]
    out = tmp_path_factory.mktemp(name)
    build(f"recipes/{name}.yaml", out, store, *defines)
    yield name, out, defines
    shutil.rmtree(out)


def verdict(name: str, out: Path, store: Path, *words: str) -> dict[str, Any]:
    done = mkroot("test", f"recipes/{name}.yaml", "-o", out, "--json", *words, store=store, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[0]
    assert done.returncode == (0 if found["passed"] else 1)
    return found


def test_the_guest_says_that_it_is_well(built: tuple[str, Path, list[str]], store: Path) -> None:
    name, out, defines = built
    found = verdict(name, out, store, *defines)
    console = Path(found["console"]).read_text("utf-8", "replace")
    assert found["verdict"] == "passed", f"{found['text']}\n{console[-3000:]}"
    assert found["told"]["mounted"] == [], "the boot file system is still mounted"
    names = [f"{s['name']} {s['note']}".strip() for s in found["stages"]]
    root, limit = RECIPES[name]
    if root is None:
        assert not [n for n in names if n.startswith("initramfs root")], "there is an initramfs after all"
        return
    assert any(n.startswith(f"initramfs root mounted {root}") for n in names), names
    kib = int(found["told"]["boot"]["INITRAMFS_KIB"])
    assert limit is not None and 0 < kib * 1024 < limit
    packed = out / name / "amd64/bootfs/initramfs.cpio.zst"
    assert not packed.exists() or packed.stat().st_size < INITRAMFS


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.mark.parametrize("name", ["debian-vm"])
def test_the_user_logs_in_on_the_console_and_by_ssh(
    name: str, key: Path, store: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for tool in ("qemu-system-x86_64", "qemu-img", "mcopy", "ssh"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    import pexpect

    build(f"recipes/{name}.yaml", tmp_path, store, "-D", f"key={key}.pub")
    disk = tmp_path / name / "amd64/disk.qcow2"
    before = disk.read_bytes()
    port = free_port()
    words = ["boot", f"recipes/{name}.yaml", "-o", str(tmp_path), "-D", f"key={key}.pub", "--port", f"{port}:22"]
    log = open(tmp_path / "console", "wb")  # noqa: SIM115  # it outlives this line
    guest = pexpect.spawn(
        str(MKROOT), words, cwd=str(ROOT), timeout=240, logfile=log, env={**os.environ, "MKROOT_STORE": str(store)}
    )
    try:
        guest.expect("box login:")
        guest.sendline("user")
        guest.expect(r"user@box:~\$")
        guest.sendline("echo on-$((6 * 7))-$(id -un)")
        guest.expect("on-42-user")
        ssh = ["ssh", "-i", str(key), "-p", str(port), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
        ssh += ["-o", f"UserKnownHostsFile={tmp_path / 'hosts'}", "-o", "ConnectTimeout=60", "user@127.0.0.1"]
        for attempt in range(12):  # the host keys are made while one logs in already
            done = subprocess.run([*ssh, "hostname; id -un"], capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                break
            assert attempt < 11, done.stderr
            guest.expect(pexpect.TIMEOUT, timeout=5)
        assert done.stdout.split() == ["box", "user"]
        guest.send("\x01x")
        guest.expect(pexpect.EOF, timeout=20)
    finally:
        guest.close(force=True)
        log.close()
    assert guest.exitstatus == 0
    assert disk.read_bytes() == before, "the guest's writes have reached the artifact"


def test_a_failing_command_is_the_tests_own_status(store: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None or shutil.which("mcopy") is None:
        pytest.skip("QEMU or mtools is not installed")
    recipe = tmp_path / "failing.yaml"
    recipe.write_text(
        f"version: 1\nname: failing\nextends: [{ROOT / 'recipes/debian-micro.yaml'}]\n"
        "distro: debian\nsuite: trixie\ntest: {run: [{cmd: 'exit 3'}]}\n"
    )
    build(recipe, tmp_path, store)
    junit = tmp_path / "junit.xml"
    done = mkroot("test", recipe, "-o", tmp_path, "--junit", junit, store=store, check=False)
    assert done.returncode == 1
    assert "`exit 3` ended with status 3" in done.stdout
    assert '<testsuite name="failing' in junit.read_text() and 'failures="1"' in junit.read_text()


@pytest.mark.parametrize("name", ["debian-micro", "debian-vm"])
def test_the_line_of_the_docs_boots_it_without_mkroot(name: str, key: Path, store: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None or shutil.which("mcopy") is None:
        pytest.skip("QEMU or mtools is not installed")
    defines = [] if name == "debian-micro" else ["-D", f"key={key}.pub"]
    build(f"recipes/{name}.yaml", tmp_path, store, *defines)
    text = (ROOT / "docs/boot.md").read_text()
    block = text.partition(f"<!-- {name} -->")[2].partition("```sh\n")[2].partition("```")[0]
    assert block.startswith("qemu-system-x86_64"), "the docs have no line for it"
    import pexpect

    guest = pexpect.spawn("/bin/sh", ["-c", block], cwd=str(tmp_path / name / "amd64"), timeout=240)
    try:
        guest.expect("box login:" if name == "debian-vm" else r"/ #")
    finally:
        guest.close(force=True)


def test_an_image_with_a_kernel_is_a_machine(store: Path, tmp_path: Path) -> None:
    """A container's image from an archive: its command runs as its user in a machine with an address."""
    import pexpect

    if shutil.which("qemu-system-x86_64") is None or shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("QEMU or e2fsprogs is not installed")
    recipe = tmp_path / "box.yaml"
    recipe.write_text(
        "version: 1\nname: box\ndistro: debian\nsuite: trixie\npackages: {variant: none, include: [busybox-static]}\n"
        "configure: none\nconfig: {users: [{name: app, uid: 1234}]}\noutputs: [oci-archive]\n"
        "image: {user: app, workdir: /tmp, env: {GREETING: hello}, cmd: [busybox, sh, -c, '"
        'busybox id; echo "$GREETING from $PWD"; busybox cat /etc/resolv.conf; busybox wget -q -O - http://10.0.2.2:1 '
        "2>&1; echo all-$((6 * 7))-done']}\n"
    )
    build(recipe, tmp_path, store)
    archive = tmp_path / "box/amd64/oci.tar"
    words = ["boot", str(archive), "-o", str(tmp_path / "machine"), "--accel", "tcg", "--archive", "debian/trixie"]
    guest = pexpect.spawn(str(MKROOT), words, timeout=240, env={**os.environ, "MKROOT_STORE": str(store)})
    try:
        guest.expect("all-42-done")
        said = guest.before.decode()
        guest.expect(pexpect.EOF)
    finally:
        guest.close(force=True)
    assert guest.exitstatus == 0
    assert "uid=1234(app)" in said and "hello from /tmp" in said
    assert "nameserver 10.0.2.3" in said and "Connection refused" in said, "the network is up"
    lock = json.loads((tmp_path / "machine/box-latest.lock").read_text())
    assert lock["architectures"]["amd64"]["parent"].startswith("sha256:")
    assert lock["architectures"]["amd64"]["packages"] == []


def test_a_machine_of_another_architecture_boots(store: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-aarch64") is None or shutil.which("mcopy") is None:
        pytest.skip("qemu-system-aarch64 (package qemu-system-arm) or mtools is not installed")
    recipe = tmp_path / "arm.yaml"
    recipe.write_text(
        f"version: 1\nname: arm\nextends: [{ROOT / 'recipes/debian-micro.yaml'}]\ndistro: debian\nsuite: trixie\n"
        "arch: [-amd64, arm64]\nboot: {kernel: linux-image-cloud-arm64, machine: aarch64-virt, cmdline: ''}\n"
    )
    build(recipe, tmp_path, store)
    done = mkroot("test", recipe, "-o", tmp_path, store=store, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Booting Linux" in done.stdout


def test_a_root_grows_to_the_disk_that_it_finds(key: Path, store: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None or not Path(FIRMWARE).exists() or shutil.which("mcopy") is None:
        pytest.skip("QEMU, its firmware or mtools is not installed")
    recipe = tmp_path / "growing.yaml"
    recipe.write_text(
        f"version: 1\nname: growing\nextends: [{ROOT / 'recipes/debian-nvme.yaml'}]\ndisk: {{grow: true}}\n"
        "test:\n  run: [{cmd: 'test $(df --output=size -m / | tail -n 1) -gt 900'}]\n"
    )
    out = build(recipe, tmp_path, store, "-D", f"key={key}.pub")
    disk = tmp_path / "growing/amd64/disk.raw"
    assert next(a["size"] for a in out["artifacts"] if a["kind"] == "disk.raw") < 900 << 20
    os.truncate(disk, 1 << 30)
    done = mkroot("test", recipe, "-o", tmp_path, "-D", f"key={key}.pub", store=store, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_distributions_own_initramfs_boots(key: Path, store: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None or shutil.which("mcopy") is None or not Path(FIRMWARE).exists():
        pytest.skip("QEMU, its firmware or mtools is not installed")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"version: 1\nname: own\nextends: [{ROOT / 'recipes/machine/debian.yaml'}]\n"
        "boot: {initramfs: distro, loader: systemd-boot}\noutputs: [bootfs, disk.raw]\n"
    )
    build(recipe, tmp_path, store, "-D", f"key={key}.pub")
    assert (tmp_path / "own/amd64/bootfs/initramfs.cpio.zst").stat().st_size > INITRAMFS, (
        "this is not the distribution's"
    )
    done = mkroot("test", recipe, "-o", tmp_path, "-D", f"key={key}.pub", store=store, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "initramfs  root" not in done.stdout, "mkroot's own init has said something"


def test_the_same_lock_gives_the_same_disk(store: Path, tmp_path: Path) -> None:
    if shutil.which("mcopy") is None or shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("mtools or e2fsprogs is not installed")
    first = build("recipes/debian-nvme.yaml", tmp_path / "a", store)
    second = build("recipes/debian-nvme.yaml", tmp_path / "b", tmp_path / "fresh", env={"TZ": "Asia/Tokyo"})
    assert [a["digest"] for a in first["artifacts"]] == [a["digest"] for a in second["artifacts"]]
