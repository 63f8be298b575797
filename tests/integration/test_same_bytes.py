"""The same recipe and lock give the same bytes, whatever the store held, whoever builds and wherever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.building import MKROOT, ROOT, as_user, mkroot, ordinary_user

pytestmark = pytest.mark.archive
RECIPE = """version: 1
name: same
distro: debian
suite: trixie
packages: {include: [openssh-server, cron]}
config:
  users: [{name: app, uid: 10000, groups: [shadow]}]
  files: [{path: /etc/motd, content: "hi\\n"}]
trim: {docs: true}
image: {layers: {by: source, budget: 4}}
outputs: [tar.zst, cpio.zst, oci, oci-archive, docker-archive]
"""


def digests(out: Path) -> dict[str, str]:
    manifest = json.loads((out / "same/amd64/manifest.json").read_text())
    return {a["kind"]: a["digest"] for a in manifest["artifacts"]} | {"tree": manifest["tree"]}


@pytest.fixture(scope="module")
def first(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The recipe with its lock beside it, and the outputs of a first build."""
    folder = tmp_path_factory.mktemp("same")
    (folder / "same.yaml").write_text(RECIPE)
    mkroot("build", folder / "same.yaml", "-o", folder / "out", store=store)
    assert (folder / "same.lock").exists()
    return folder / "same.yaml", folder / "out"


def test_an_empty_store_and_other_settings(first: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, out = first
    settings = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "HOME": str(tmp_path), "LANGUAGE": "tr"}
    old = os.umask(0o077)
    try:
        mkroot("build", recipe, "-o", tmp_path / "elsewhere/out", "--locked", store=tmp_path / "store", env=settings)
    finally:
        os.umask(old)
    assert digests(tmp_path / "elsewhere/out") == digests(out)


def test_a_warm_store(first: tuple[Path, Path], store: Path, tmp_path: Path) -> None:
    recipe, out = first
    done = mkroot("build", recipe, "-o", tmp_path / "out", "--locked", "--json", store=store)
    steps = {s["name"]: s["cached"] for s in json.loads(done.stdout)["builds"][0]["steps"]}
    assert all(cached for name, cached in steps.items() if name.startswith("configure")), steps
    assert digests(tmp_path / "out") == digests(out)


def test_one_processor(first: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, out = first
    if not shutil.which("taskset"):
        pytest.skip("taskset is not installed")
    words = ["taskset", "-c", "0", MKROOT, "build", recipe, "-o", tmp_path / "out", "--locked"]
    environ = {**os.environ, "MKROOT_STORE": str(tmp_path / "store")}
    done = subprocess.run(words, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "out") == digests(out)


@pytest.mark.parametrize("kind", ["mapped", "single"])
def test_an_ordinary_user(first: tuple[Path, Path], kind: str, store: Path, tmp_path: Path) -> None:
    user = ordinary_user()
    recipe, out = first
    if kind == "single":  # an ACL that names another id cannot be set then, as systemd's tmpfiles does
        recipe, out = tmp_path / "same.yaml", tmp_path / "out"
        recipe.write_text(RECIPE.replace("openssh-server, cron", "openssh-client, adduser"))
        mkroot("build", recipe, "-o", out, store=store)
    home = Path(f"~{user}").expanduser() / f"same-{kind}"
    environ = {"PATH": "/nowhere" if kind == "single" else "/usr/bin:/bin", "MKROOT_STORE": f"{home}/store"}
    command = [*as_user(user, environ), "build", f"{home}/same.yaml", "--locked", "-o", f"{home}/out"]
    try:
        home.mkdir()
        for name in (recipe, recipe.with_suffix(".lock")):
            (home / name.name).write_bytes(name.read_bytes())
        shutil.chown(home, user)
        if kind == "single":  # without newuidmap there is one id
            hide = 'mount --bind /dev/null /usr/bin/newuidmap && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", hide, "-", *command]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        assert digests(home / "out") == digests(out)
    finally:
        subprocess.run(["rm", "-rf", home], check=True)


def test_source_date_epoch_wins(first: tuple[Path, Path], store: Path, tmp_path: Path) -> None:
    recipe, out = first
    epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
    mkroot("build", recipe, "-o", tmp_path / "out", "--locked", store=store, env=epoch)
    assert json.loads((tmp_path / "out/same/amd64/manifest.json").read_text())["epoch"] == 1700000000
    assert digests(tmp_path / "out")["tar.zst"] != digests(out)["tar.zst"]


def test_the_lock_tells_nothing_of_the_machine(first: tuple[Path, Path]) -> None:
    recipe, _ = first
    text = recipe.with_suffix(".lock").read_text()
    assert "://" not in text and str(recipe.parent) not in text and str(ROOT) not in text
    assert text.endswith("\n")
