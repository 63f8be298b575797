"""A recipe's digest: what changes it, what does not, and the files beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mkroot.recipe.load import load
from mkroot.recipe.normal import digest, inputs, normalised

HEAD = "version: 1\nname: x\ndistro: debian\nsuite: trixie\n"
BODY = "packages: {include: [vim, nano]}\nconfig: {hostname: box}\n"


def of(folder: Path, text: str, **defines: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "r.yaml"
    path.write_text(text)
    return digest(load(path, defines))


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" + HEAD + BODY,
        BODY + HEAD,
        HEAD + "config:\n  hostname: 'box'\npackages:\n  include:\n  - vim\n  - \"nano\"\n",
        HEAD + BODY + "arch: [amd64]\npockets: [updates, security]\n",
        HEAD + BODY + "mirror: http://me:secret@mirror.example/debian\n",
        "vars: {s: trixie}\n" + HEAD.replace("trixie", "${s}") + BODY,
        HEAD + "packages: {include: &a [vim, nano]}\nconfig: {hostname: box}\n",
    ],
)
def test_the_same_recipe_written_in_another_way(tmp_path: Path, text: str) -> None:
    assert of(tmp_path / "here", text) == of(tmp_path / "there", HEAD + BODY)


def test_composition_is_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("packages: {include: [vim, git]}\n")
    composed = of(tmp_path, HEAD + "extends: [base.yaml]\npackages: {include: [nano, -git]}\nconfig: {hostname: box}\n")
    assert composed == of(tmp_path, HEAD + BODY)


@pytest.mark.parametrize(
    "more",
    [
        "pockets: []\n",
        "configure: none\n",
        "snapshot: 20261101T000000Z\n",
        "components: [main, contrib]\n",
        "image: {cmd: [/bin/sh]}\n",
        "limits: {packages: 5}\n",
        "apt: {mirror: none}\n",
        "sources: [{id: t, uri: 'http://mirror.example', suites: [s]}]\n",
    ],
)
def test_another_recipe(tmp_path: Path, more: str) -> None:
    assert of(tmp_path, HEAD + BODY + more) != of(tmp_path, HEAD + BODY)


def test_a_variable_counts_by_what_it_makes(tmp_path: Path) -> None:
    text = "vars: {s: trixie, unused: a}\n" + HEAD.replace("trixie", "${s}")
    assert of(tmp_path, text, s="sid") != of(tmp_path, text)
    assert of(tmp_path, text, unused="b") == of(tmp_path, text)


def test_no_secret_of_an_address_counts(tmp_path: Path) -> None:
    text = HEAD + "sources: [{id: t, uri: 'http://%smirror.example/t/', suites: [s]}]\n"
    assert of(tmp_path, text % "me:secret@") == of(tmp_path, text % "")


def test_order_in_lists_counts(tmp_path: Path) -> None:
    assert of(tmp_path, HEAD + "packages: {include: [nano, vim]}\n") != of(
        tmp_path, HEAD + "packages: {include: [vim, nano]}\n"
    )


def test_local_files_count_by_their_path(tmp_path: Path) -> None:
    text = HEAD + "keyring: ./k.asc\nhooks: [{at: final, run: sub/h.sh}]\npackages: {include: [./a.deb]}\n"
    text += "config: {files: [{path: /a, from: sub}], users: [{name: a, ssh_keys: [k.asc]}]}\n"
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        for file in ("k.asc", "a.deb", "sub/h.sh"):
            (folder / file).write_text(name)
        (folder / "r.yaml").write_text(text)
        recipe = load(folder / "r.yaml")
        found.append(normalised(recipe))
        assert [local.relative for local in inputs(recipe)] == ["a.deb", "k.asc", "sub", "sub/h.sh"]
        assert all(Path(local).exists() for local in inputs(recipe))
    assert found[0] == found[1]
    assert str(tmp_path).encode() not in found[0]


def test_the_form_is_fixed(tmp_path: Path) -> None:
    """Locks hold this digest: a change of the form makes every lock stale, so it is a decision, not an accident."""
    text = HEAD + BODY + "limits: {rootfs: 1G}\nconfig: {files: [{path: /a, content: é, mode: '0600'}]}\n"
    path = tmp_path / "r.yaml"
    path.write_text(text.replace(BODY, "packages: {include: [vim, nano]}\n"))
    assert json.loads(normalised(load(path))) == {
        "version": 1,
        "name": "x",
        "distro": "debian",
        "suite": "trixie",
        "packages": {"include": ["vim", "nano"]},
        "config": {"files": [{"content": "é", "mode": "0600", "path": "/a"}]},
        "limits": {"rootfs": 1 << 30},
    }
    assert digest(load(path)) == "93f43b560be0dea8942c7913c95adf0fb1aad9d566010bfbbba6dcb6f1ceb0a4"
