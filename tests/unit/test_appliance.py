"""A machine that runs an image: what its root is given, the command as a container would start it, and its recipe."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mkroot.errors import BootError, UsageError
from mkroot.machines import machine_recipe
from mkroot.oci.model import Config, Descriptor, Manifest, RootFS
from mkroot.oci.store import Image
from mkroot.recipe.load import load
from mkroot.rootfs.appliance import Appliance, has_init, loads_modules, prepare_appliance, start_script
from mkroot.rootfs.machine import prepare_machine
from tests.unit.roots import EPOCH, changes, tree_of

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/false\n"


def appliance(**more: object) -> Appliance:
    return Appliance(**{"command": ("/bin/server", "--port", "80"), "busybox": b"BOX", **more})  # type: ignore[arg-type]


def test_an_image_without_an_init_is_given_one_that_starts_its_command(tmp_path: Path) -> None:
    before = tree_of(tmp_path, {"usr/sbin/x": "x", "sbin": "-> usr/sbin"})
    tree = before.copy()
    origins = prepare_appliance(tree, appliance())
    assert has_init(tree)
    assert prepare_machine(tree, load_disk(), epoch=EPOCH) == {}, "it has an init now"
    paths = [line.split(" ")[3] for line in changes(before, tree) if not line.startswith("d ")]
    assert paths == [f"usr/lib/mkroot/{n}" for n in ("busybox", "init", "lease", "network", "start")] + [
        "usr/sbin/init"
    ]
    assert tree.read("sbin/init").startswith(b"#!/usr/lib/mkroot/busybox sh\n")
    assert {"dev", "proc", "run", "sys", "tmp"} <= set(tree.nodes), "a machine mounts things there"
    assert origins["usr/lib/mkroot/start"] == "mkroot: the image's command"


def load_disk() -> object:
    from mkroot.recipe.booting import Disk

    return Disk()


def test_an_image_with_systemd_keeps_its_init_and_gets_the_modules(tmp_path: Path) -> None:
    before = tree_of(tmp_path, {"usr/sbin/init": "-> ../bin/systemd", "usr/bin/systemd": "s", "usr/sbin/modprobe": "m"})
    tree = before.copy()
    assert loads_modules(tree)
    prepare_appliance(tree, appliance(modules={"usr/lib/modules/6.1/modules.dep": b"dep"}))
    paths = [line.split(" ")[3] for line in changes(before, tree) if not line.startswith("d ")]
    assert paths == ["usr/lib/modules/6.1/modules.dep"]
    assert not loads_modules(tree_of(tmp_path / "b", {"usr/bin/sh": "x"}))


def test_busyboxs_init_is_none_and_busybox_stays(tmp_path: Path) -> None:
    before = tree_of(tmp_path, {"sbin/init": "-> /bin/busybox", "bin/busybox": "box", "usr/sbin/x": "x"})
    tree = before.copy()
    assert not has_init(tree)
    prepare_appliance(tree, appliance())
    assert tree.read("bin/busybox") == b"box"
    assert tree.read("sbin/init").startswith(b"#!/usr/lib/mkroot/busybox sh\n")


def test_the_command_has_the_images_environment_and_folder(tmp_path: Path) -> None:
    """The script is run by a shell, with a program in place of the image's."""
    env = ("PATH=/usr/bin:/bin", 'GREETING=it\'s a "test" $HOME', "bad-name=x", "EMPTY=")
    command = ("/usr/bin/printenv", "GREETING", "EMPTY", "HOME")
    text = start_script(
        tree_of(tmp_path, {"etc/passwd": PASSWD}), appliance(command=command, env=env, workdir=str(tmp_path))
    )
    done = subprocess.run(["/bin/sh"], input=text, capture_output=True, text=True, env={}, check=True)
    assert done.stdout == 'it\'s a "test" $HOME\n\n/root\n'
    assert f"cd {tmp_path}\n" in text and "bad-name" not in text


@pytest.mark.parametrize(
    ("user", "line"),
    [
        ("", "exec /usr/bin/server --port 80"),
        ("root", "exec /usr/bin/server --port 80"),
        ("web", "exec start-stop-daemon -S -c web -x /usr/bin/server -- --port 80"),
        ("1000:50", "exec start-stop-daemon -S -c 1000:50 -x /usr/bin/server -- --port 80"),
    ],
)
def test_the_command_is_the_users(user: str, line: str, tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"etc/passwd": PASSWD, "usr/bin/server": "x"})
    text = start_script(tree, appliance(command=("server", "--port", "80"), user=user))
    assert text.splitlines()[-1] == line, "and it is found in PATH"
    assert f"export HOME={ {'': '/root', 'root': '/root', 'web': '/var/www'}.get(user, '/') }" in text


def test_a_number_that_no_user_has_is_given_a_name(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"etc/passwd": PASSWD})
    prepare_appliance(tree, appliance(user="4321:50"))
    assert tree.read("etc/passwd").decode() == PASSWD + "mkroot:x:4321:50::/:/bin/sh\n"
    tree = tree_of(tmp_path / "b", {"etc/passwd": PASSWD})
    prepare_appliance(tree, appliance(user="33"))
    assert tree.read("etc/passwd").decode() == PASSWD


def test_no_command_is_a_shell(tmp_path: Path) -> None:
    assert start_script(tree_of(tmp_path, {}), appliance(command=())).splitlines()[-1] == "exec /bin/sh"


# ---- the recipe of an image's machine


def image(architecture: str = "amd64", variant: str = "") -> Image:
    descriptor = Descriptor(media_type="m", digest="sha256:" + "a" * 64, size=1)
    config = Config(architecture=architecture, variant=variant, os="linux", rootfs=RootFS("layers", ()))
    return Image(
        descriptor=descriptor, manifest=Manifest(schema_version=2, config=descriptor, layers=()), config=config
    )


@pytest.mark.parametrize(
    ("os_release", "wanted"),
    [
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", ("ubuntu", "noble", "linux-image-virtual")),
        ('ID=debian\nVERSION_CODENAME="bookworm"\n', ("debian", "bookworm", "linux-image-cloud-amd64")),
        ("ID=alpine\nVERSION_ID=3.20\n", ("debian", "trixie", "linux-image-cloud-amd64")),
        (None, ("debian", "trixie", "linux-image-cloud-amd64")),
    ],
)
def test_a_kernel_is_chosen_for_an_image(os_release: str | None, wanted: tuple[str, str, str], tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {} if os_release is None else {"etc/os-release": os_release})
    name, text = machine_recipe(image(), tree, "127.0.0.1:5000/team/Box".lower() + ":1.0", None, None)
    assert name == "team-box-1-0"
    path = tmp_path / "machine.yaml"
    path.write_text(text)
    recipe = load(path)
    assert recipe.boot is not None
    assert (recipe.distro, recipe.suite, recipe.boot.kernel) == wanted
    assert recipe.boot.rootfs == "image:127.0.0.1:5000/team/box:1.0"
    assert recipe.packages.variant == "none" and not recipe.packages.include


def test_what_the_user_says_of_the_kernel_wins(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, {"etc/os-release": "ID=ubuntu\nVERSION_CODENAME=noble\n"})
    _, text = machine_recipe(image(), tree, "box:1", "linux-image-amd64", "debian/trixie")
    assert "suite: trixie\n" in text and "kernel: linux-image-amd64\n" in text
    with pytest.raises(UsageError, match="`--archive debian`: expected a distribution and its suite"):
        machine_recipe(image(), tree, "box:1", None, "debian")
    with pytest.raises(BootError, match="no kernel is known for debian on riscv64"):
        machine_recipe(image("riscv64"), tree, "box:1", None, "debian/trixie")
