"""A store that cannot be written: what builds says so once; what only reads still works."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.works import World, said_once, tree

pytestmark = pytest.mark.counts("fault")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Mount a folder on itself, read-only; skip where this user may not."""
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode:
        pytest.skip("no mount can be made here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_build_says_so(static: World, warm: bool) -> None:
    site = static.fresh()
    if warm:
        static.heals()
    else:
        site.store.mkdir()
    before = tree(site.store)
    outputs = site.made()
    with read_only(site.store):
        ended = site.build("--tag", "other:1")
        said = said_once(ended)
        assert "the store cannot be written: Read-only file system" in said
        assert str(site.store) in said
        assert "set MKROOT_STORE" in ended.err
    assert tree(site.store) == before
    assert site.made() == outputs
    static.heals()


def test_a_read_only_output_folder(static: World) -> None:
    site = static.fresh()
    site.out.mkdir()
    with read_only(site.out):
        said = said_once(site.build())
        assert "Read-only file system" in said and str(site.out) in said
    site.out.rmdir()
    static.heals()


READING = {
    "images": ("images",),
    "inspect": ("inspect", "mini:latest"),
    "verify-image": ("inspect", "mini:latest", "--verify"),
    "history": ("history", "mini:latest"),
    "list": ("cache", "list"),
    "size": ("cache", "size"),
    "verify": ("cache", "verify"),
    "ps": ("ps", "-a"),
    "save": ("save", "mini:latest", "image.tar"),
    "plan": ("plan", "r.yaml", "--offline"),
    "why": ("why", "r.yaml", "lib", "--offline"),
    "size-of-recipe": ("size", "r.yaml"),
    "explain": ("explain", "out/mini/amd64", "/etc/base.conf"),
    "sbom": ("sbom", "mini:latest"),
    "diff": ("diff", "mini:latest", "mini:latest"),
}


@pytest.mark.parametrize("name", READING)
def test_what_only_reads_works(static: World, name: str) -> None:
    site = static.fresh()
    static.heals()
    writable = site.run(*READING[name])
    (site.folder / "image.tar").unlink(missing_ok=True)
    with read_only(site.store):
        ended = site.run(*READING[name])
    assert ended.status == writable.status == 0, ended.err
    assert ended.out == writable.out
    (site.folder / "image.tar").unlink(missing_ok=True)


@pytest.mark.parametrize(
    "words",
    [
        ("rmi", "mini:latest"),
        ("tag", "mini:latest", "b:1"),
        ("cache", "prune", "--all"),
        ("run", "mini:latest", "true"),
        ("export", "mini:latest", "image.tar"),
    ],
    ids=lambda w: w[0] if w[0] != "cache" else w[1],
)
def test_what_writes_says_so(static: World, words: tuple[str, ...]) -> None:
    site = static.fresh()
    static.heals()
    with read_only(site.store):
        ended = site.run(*words)
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert ended.status in (1, 125) and len(errors) == 1, ended.err
        assert "read-only" in errors[0].lower(), ended.err
        assert not (site.folder / "image.tar").exists()
        assert "internal error" not in ended.err
    static.heals()
