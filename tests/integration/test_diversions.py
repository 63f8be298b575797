"""vim beside vim-tiny: its preinst diverts files of a package that an earlier stage, or the parent, has unpacked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.building import build, differences, members, needs, needs_root
from tests.integration.test_same_tree import explained, mmdebstraps

pytestmark = [pytest.mark.archive, pytest.mark.counts("rebuild")]
HELP = "usr/share/vim/vim91/doc/help.txt"
RECIPE = """version: 1
name: {name}
distro: debian
suite: trixie
arch: [amd64]
packages: {packages}
outputs: [tar, oci]
image: {image}
"""


def recipe(folder: Path, name: str, packages: str, image: str = "{}") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(name=name, packages=packages, image=image))
    return path


def test_after_an_earlier_stage(store: Path, tmp_path: Path) -> None:
    """The variant brings vim-tiny, the recipe vim; the tree is mmdebstrap's."""
    needs("mmdebstrap")
    needs_root()
    path = recipe(tmp_path, "staged", "{variant: important, include: [vim]}")
    build(path, tmp_path / "out", store)
    ours = tmp_path / "out/staged/amd64"
    build(path, tmp_path / "again", store, "--output", "tar")  # of known stages
    known = (tmp_path / "again/staged/amd64/rootfs.tar").read_bytes()
    assert known == (ours / "rootfs.tar").read_bytes()
    epoch = json.loads((ours / "manifest.json").read_text())["epoch"]
    theirs = mmdebstraps(tmp_path / "theirs.tar", "debian", "trixie", epoch, "--variant=important", "--include=vim")
    found = members(ours / "rootfs.tar")
    assert found[HELP][4] != found[f"{HELP}.vim-tiny"][4]
    assert differences(found, members(theirs), [*explained(), "/etc/machine-id"]) == []  # that is made at first boot


def test_over_a_parent(store: Path, tmp_path: Path) -> None:
    """The parent has vim-tiny; what vim makes of it is what one stage with both makes."""
    needs_root()
    tree = {}
    for name, packages, image in (
        ("old", "{variant: minbase, include: [vim-tiny]}", "{tags: ['vim-old:1']}"),
        ("over", "{include: [vim]}", "{from: 'vim-old:1'}"),
        ("both", "{variant: minbase, include: [vim-tiny, vim]}", "{}"),
    ):
        build(recipe(tmp_path, name, packages, image), tmp_path / "out", store)
        tree[name] = members(tmp_path / f"out/{name}/amd64/rootfs.tar")
    assert tree["old"][HELP] == tree["over"][f"{HELP}.vim-tiny"]
    over, both = ({p: m for p, m in tree[n].items() if "/vim/" in f"/{p}"} for n in ("over", "both"))
    assert len(over) > 1000 and differences(over, both, ()) == []
