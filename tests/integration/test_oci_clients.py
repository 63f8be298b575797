"""Other programs read the images: skopeo, umoci, podman and crun; the root is made of this machine's own shell."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.artifact.manifest import Facts
from mkroot.oci.build import ImageSettings
from mkroot.oci.outputs import write_build
from mkroot.oci.store import ImageStore
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, SYMLINK, Entry
from tests.unit.test_artifact_root import EPOCH, FACTS, STATUS, add_layer

REFERENCE = "shell:own"
ROOT = os.geteuid() == 0


def wanted(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


def shell_members() -> list[tuple[Entry, bytes]]:
    """A root with this machine's /bin/sh and `true`, and the libraries that they need."""
    files: dict[str, bytes] = {}
    for program in ("sh", "true"):
        path = shutil.which(program)
        assert path
        files[f"usr/bin/{program}"] = Path(path).resolve().read_bytes()
        told = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            real = library if library.startswith("/usr/") else "/usr" + library
            files[real[1:]] = Path(library).read_bytes()
    files["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n"
    files["etc/group"] = b"root:x:0:\napp:x:1000:\n"
    files["var/lib/dpkg/status"] = STATUS
    folders = {"", "proc", "sys", "dev", "tmp", "srv", "root"}
    for path in files:
        while path := path.rpartition("/")[0]:
            folders.add(path)
    members = [(Entry(f, DIR, 0o755, mtime=EPOCH), b"") for f in sorted(folders)]
    for link in ("bin", "lib", "lib64"):
        if f"usr/{link}" in folders:
            members.append((Entry(link, SYMLINK, 0o777, mtime=EPOCH, link=f"usr/{link}"), b""))
    for path, data in sorted(files.items()):
        mode = 0o755 if path.startswith("usr/") else 0o644
        members.append((Entry(path, FILE, mode, mtime=EPOCH, size=len(data)), data))
    return members


def shell_root(store: Store) -> Assembly:
    layers = LayerStore(store)
    tree = Tree(layers.read)
    members = shell_members()
    package = [m for m in members if not m[0].path.startswith("etc")]
    add_layer(tree, layers, "a", package, {"control": b"Package: a\n"})
    add_layer(tree, layers, "top", [m for m in members if m[0].path.startswith("etc")], {})
    return Assembly(tree, layers, EPOCH, {"a": "src-a"})


@pytest.fixture
def place() -> Iterator[Path]:
    # podman makes an image's name of an archive's path, and takes none with "_" at a part's end, as mkdtemp gives them
    folder = Path(tempfile.gettempdir(), f"mkroot-{secrets.token_hex(6)}")
    folder.mkdir()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def build(place: Path, compression: str, by: str = "single", single_stream: bool = False) -> Path:
    store = Store(place / "store")
    facts: Facts = FACTS
    settings = ImageSettings(
        compression=compression, by=by, budget=3, single_stream=single_stream, cmd=("/bin/sh",), tags=(REFERENCE,)
    )
    kinds = ("oci", "oci-archive", "docker-archive")
    return write_build(shell_root(store), facts, settings, place / "out", kinds, images=ImageStore(store)).folder


def run(*command: object, **more: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("by", ["single", "source"])
def test_skopeo_reads_every_form(place: Path, compression: str, by: str) -> None:
    wanted("skopeo")
    folder = build(place, compression, by)
    sources = (
        f"oci:{folder}/oci:{REFERENCE}",
        f"oci:{folder}/oci",
        f"oci-archive:{folder}/oci.tar",
        f"docker-archive:{folder}/docker.tar",
        f"oci:{place}/store/oci:{REFERENCE}",
    )
    for number, source in enumerate(sources):
        told = json.loads(run("skopeo", "inspect", "--config", source))
        assert told["config"]["Cmd"] == ["/bin/sh"] and told["architecture"] == "amd64", source
        run("skopeo", "--insecure-policy", "copy", "-q", source, f"dir:{place}/copy{number}")
        manifest = json.loads((place / f"copy{number}" / "manifest.json").read_bytes())
        for layer in manifest["layers"]:
            assert (place / f"copy{number}" / layer["digest"][7:]).stat().st_size == layer["size"]


@pytest.mark.parametrize("rootless", [False, True])
@pytest.mark.parametrize("single_stream", [False, True])
def test_umoci_unpacks(place: Path, rootless: bool, single_stream: bool) -> None:
    """umoci 0.4.7 knows no zstd; gzip layers, joined of members or in one stream, it reads."""
    wanted("umoci")
    if not rootless and not ROOT:
        pytest.skip("unpacking with owners needs root")
    folder = build(place, "gzip", "source", single_stream)
    for image in (f"{folder}/oci:{REFERENCE}", f"{place}/store/oci:{REFERENCE}"):
        bundle = place / f"bundle{len(list(place.iterdir()))}"
        options = ["--rootless"] if rootless else []
        run("umoci", "unpack", *options, "--image", image, bundle)
        for entry, content in shell_members():
            path = bundle / "rootfs" / entry.path
            assert path.is_symlink() if entry.kind == SYMLINK else path.exists(), entry.path
            if entry.kind == FILE:
                assert path.read_bytes() == content, entry.path
                assert path.stat().st_mode & 0o7777 == entry.mode
    stat = json.loads(run("umoci", "stat", "--json", "--image", f"{folder}/oci:{REFERENCE}"))
    assert len([h for h in stat["history"] if not h.get("empty_layer")]) == 2


def hybrid() -> bool:
    return Path("/sys/fs/cgroup/unified").exists()


def alone(command: list[str]) -> list[str]:
    """Return what runs a command where crun finds no hybrid cgroups, which Debian 12's refuses: its own mounts."""
    if not hybrid():
        return command
    script = 'umount /sys/fs/cgroup/unified && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *command]


@pytest.mark.skipif(not ROOT, reason="needs a mount namespace of root's")
def test_crun_runs_the_shell(place: Path) -> None:
    wanted("crun")
    wanted("umoci")
    folder = build(place, "gzip")
    bundle = place / "bundle"
    run("umoci", "unpack", "--image", f"{folder}/oci:{REFERENCE}", bundle)
    config = json.loads((bundle / "config.json").read_bytes())
    assert config["process"]["args"] == ["/bin/sh"]
    config["process"].update(
        terminal=False, args=["/bin/sh", "-c", "true && echo ran as $(id -u 2>/dev/null || echo 0)"]
    )
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"mkroot-test-{os.getpid()}"
    state = place / "state"
    command = ["crun", "--root", str(state), "run", "--bundle", str(bundle), name]
    assert run(*alone(command)) == "ran as 0\n"


@pytest.mark.skipif(not ROOT, reason="needs a mount namespace of root's")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("form", ["oci", "oci-archive", "docker-archive"])
def test_podman_runs_the_shell(place: Path, compression: str, form: str) -> None:
    wanted("podman")
    folder = build(place, compression)
    source = {
        "oci": f"oci:{folder}/oci:{REFERENCE}",
        "oci-archive": f"oci-archive:{folder}/oci.tar",
        "docker-archive": f"docker-archive:{folder}/docker.tar",
    }[form]
    own = [
        "podman", "--root", str(place / "graph"), "--runroot", str(place / "run"), "--storage-driver", "vfs",
        "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", str(place / "tmp"),
    ]  # fmt: skip
    try:
        identity = run(*own, "pull", "-q", source).strip()
        command = [
            *own,
            "run",
            "--rm",
            "--network",
            "none",
            "--cgroups",
            "disabled",
            "--log-driver",
            "none",
            "--ulimit",
            "nofile=256:256",
            "--ulimit",
            "nproc=256:256",
            identity,
        ]
        done = subprocess.run(
            alone([*command, "/bin/sh", "-c", "true && echo ran"]), capture_output=True, text=True, timeout=120
        )
        if done.returncode == 126 or "operation not permitted" in done.stderr.lower():
            pytest.skip(f"podman cannot run containers here: {done.stderr.strip()[-200:]}")
        assert done.stdout == "ran\n", done.stderr
    finally:
        subprocess.run([*own, "rmi", "-af"], capture_output=True, check=False)
