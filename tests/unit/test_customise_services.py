"""Units: the links that systemctl makes and removes; expected are those of systemctl 257 in a Debian 13 root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mkroot.errors import RecipeError
from mkroot.recipe.model import Config, Services
from mkroot.recipe.values import Unit
from mkroot.rootfs.customise import Customised, customise
from mkroot.rootfs.inputs import Inputs
from mkroot.rootfs.tree import Tree
from tests.unit.roots import EPOCH, changes, debian, materialise, systemd, tree_of

ETC = "l 0777 0:0 etc/systemd/system"


def run(tree: Tree, **lists: list[str]) -> Customised:
    services = Services(**{k: tuple(Unit.parse(n) for n in v) for k, v in lists.items()})
    return customise(tree, Config(services=services), Inputs(), epoch=EPOCH)


def links(tmp_path: Path, files: dict[str, str | bytes] | None = None, **lists: list[str]) -> list[str]:
    before = tree_of(tmp_path, systemd() if files is None else files)
    tree = before.copy()
    run(tree, **lists)
    return [c for c in changes(before, tree) if not c.startswith("d ")]


def lib(unit: str) -> str:
    return f"/usr/lib/systemd/system/{unit}"


def test_enable_makes_wants_and_aliases(tmp_path: Path) -> None:
    assert links(tmp_path, enable=["web"]) == [
        f"{ETC}/multi-user.target.wants/web.service -> {lib('web.service')}",
        f"{ETC}/www.service -> {lib('web.service')}",
    ]


def test_also_is_followed(tmp_path: Path) -> None:
    assert links(tmp_path, enable=["net"]) == [
        f"{ETC}/multi-user.target.wants/net.service -> {lib('net.service')}",
        f"{ETC}/network-online.target.wants/wait.service -> {lib('wait.service')}",
        f"{ETC}/sockets.target.wants/net.socket -> {lib('net.socket')}",
    ]


def test_instances_of_a_template(tmp_path: Path) -> None:
    assert links(tmp_path, enable=["getty@tty5"]) == [
        f"{ETC}/autovt@tty5.service -> {lib('getty@.service')}",
        f"{ETC}/getty.target.wants/getty@tty5.service -> {lib('getty@.service')}",
    ]
    assert links(tmp_path, enable=["only@eth0"]) == [
        f"{ETC}/multi-user.target.wants/only@eth0.service -> {lib('only@.service')}",
    ]
    with pytest.raises(RecipeError, match="template"):
        links(tmp_path, enable=["only@"])


def test_requires_upholds_and_specifiers(tmp_path: Path) -> None:
    assert links(tmp_path, enable=["needed"]) == [
        f"{ETC}/needed-x.target.upholds/needed.service -> {lib('needed.service')}",
        f"{ETC}/web.service.requires/needed.service -> {lib('needed.service')}",
    ]


def test_a_unit_is_enabled_by_its_alias_too(tmp_path: Path) -> None:
    files = systemd() | {"usr/lib/systemd/system/http.service": "-> web.service"}
    assert links(tmp_path, files, enable=["http"])[0].endswith(f"wants/web.service -> {lib('web.service')}")


def test_before_255_links_name_lib(tmp_path: Path) -> None:
    files = systemd()
    del files["usr/lib/x/systemd/libsystemd-shared-257.so"]
    files["usr/lib/x/systemd/libsystemd-shared-252.so"] = "x"
    assert links(tmp_path, files, enable=["net.socket"]) == [
        f"{ETC}/sockets.target.wants/net.socket -> /lib/systemd/system/net.socket"
    ]


def test_disable_takes_back_what_enable_made(tmp_path: Path) -> None:
    before = tree_of(tmp_path, systemd())
    tree = before.copy()
    run(tree, enable=["net", "web", "getty@tty5", "needed"])
    keep = tree.copy()
    run(tree, disable=["net", "web", "needed"])
    left = [c for c in changes(before, tree) if not c.startswith("d ")]
    assert left == [
        f"{ETC}/autovt@tty5.service -> {lib('getty@.service')}",
        f"{ETC}/getty.target.wants/getty@tty5.service -> {lib('getty@.service')}",
    ]
    assert "- etc/systemd/system/sockets.target.wants" in changes(keep, tree)
    run(tree, disable=["getty@tty5"])
    assert "getty@tty5" not in "\n".join(changes(before, tree))


def test_mask_and_a_file_of_the_image(tmp_path: Path) -> None:
    assert links(tmp_path, mask=["tmp.mount"]) == [f"{ETC}/tmp.mount -> /dev/null"]
    done = run(tree_of(tmp_path, systemd()), mask=["nosuch"])
    assert "no unit `nosuch.service`" in done.notes[0]
    with pytest.raises(RecipeError, match="cannot be masked"):
        links(tmp_path, systemd() | {"etc/systemd/system/own.service": "[Unit]\n"}, mask=["own"])


def test_a_system_v_script_is_switched_with_its_unit(tmp_path: Path) -> None:
    files = systemd() | {
        "etc/init.d/web": "x!",
        "etc/rc0.d/K01web": "-> ../init.d/web",
        **{f"etc/rc{n}.d/S01web": "-> ../init.d/web" for n in "2345"},
    }
    before = tree_of(tmp_path, files)
    tree = before.copy()
    run(tree, disable=["web"])
    assert [c for c in changes(before, tree) if "rc2" in c or "rc0" in c] == [
        "l 0777 0:0 etc/rc2.d/K01web -> ../init.d/web",
        "- etc/rc2.d/S01web",
    ]
    run(tree, enable=["web"])
    assert not [c for c in changes(before, tree) if "etc/rc" in c and "d 0" not in c and "S01" not in c]


def test_an_empty_assignment_in_a_drop_in_takes_back(tmp_path: Path) -> None:
    files = systemd() | {"etc/systemd/system/web.service.d/x.conf": "[Install]\nAlias=\nWantedBy=\nWantedBy=a.target\n"}
    assert links(tmp_path, files, enable=["web"]) == [f"{ETC}/a.target.wants/web.service -> {lib('web.service')}"]


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"enable": ["wed"]}, "did you mean `web.service`?"),
        ({"disable": ["nett.socket"]}, "did you mean `net.socket`?"),
        ({"enable": ["static"]}, "[Install]"),
    ],
)
def test_faults(tmp_path: Path, lists: dict[str, list[str]], says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        links(tmp_path, **lists)
    assert says in str(raised.value)
    assert raised.value.where == f"config.services.{next(iter(lists))}[0]"


def test_no_systemd_no_services(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no systemd"):
        links(tmp_path, debian(), enable=["web"])


def wanted_links(root: Path) -> list[str]:
    found = []
    for folder, _, names in os.walk(root / "etc/systemd"):
        found += [
            f"{os.path.relpath(os.path.join(folder, n), root)} -> {os.readlink(os.path.join(folder, n))}"
            for n in names
            if os.path.islink(os.path.join(folder, n))
        ]
    return sorted(found)


@pytest.mark.parametrize(
    ("enable", "disable", "mask"),
    [
        (["web"], [], []),
        (["net", "web"], ["net"], ["tmp.mount"]),
        (["getty@tty5", "only@eth0"], [], []),
        (["getty@tty5", "getty@tty6", "web"], ["getty@tty5"], []),
        (["getty@"], [], []),
        (["needed"], [], ["web"]),
        (["web", "net"], ["wait", "net.socket"], []),
    ],
)
def test_the_links_equal_those_of_the_real_systemctl(
    tmp_path: Path, enable: list[str], disable: list[str], mask: list[str]
) -> None:
    if shutil.which("systemctl") is None:
        pytest.skip("no systemctl here")
    simple = {"needed.service": "[Install]\nRequiredBy=web.service\nWantedBy=%p-x.target\n"}  # UpheldBy= is new in 254
    tree = tree_of(tmp_path, systemd(**simple))
    root = tmp_path / "root"
    materialise(tree, root)
    for verb, names in (("enable", enable), ("disable", disable), ("mask", mask)):
        if names:
            argv = ["systemctl", f"--root={root}", verb, *names]
            done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"SYSTEMCTL_SKIP_SYSV": "1"})
            if done.returncode:
                pytest.skip(f"this host's systemctl does not do it: {done.stderr.strip()}")
            run(tree, **{verb: names})
    ours = {p: n.entry.link for p, n in tree.nodes.items() if p.startswith("etc/systemd") and n.entry.kind == "l"}
    assert sorted(f"{p} -> {link}" for p, link in ours.items()) == wanted_links(root)
