"""From a command line to jobs: values, locks' names, and what cannot be built in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mkroot.build import Options
from mkroot.errors import UsageError
from mkroot.fleet.matrix import Given, Variant, bases, choices, clash, variants
from mkroot.lockfile import lock_path, spoken, variant_path
from mkroot.resolve.lock import Lock


def test_a_comma_makes_several_values() -> None:
    every, varied = choices(["suite=a,b", "flavour=x", "n=1,2"])
    assert varied == ("n", "suite")
    assert every == (
        {"suite": "a", "flavour": "x", "n": "1"},
        {"suite": "a", "flavour": "x", "n": "2"},
        {"suite": "b", "flavour": "x", "n": "1"},
        {"suite": "b", "flavour": "x", "n": "2"},
    )


@pytest.mark.parametrize(
    ("given", "every", "varied"),
    [
        ([], ({},), ()),
        (["a=1"], ({"a": "1"},), ()),
        (["a="], ({"a": ""},), ()),
        ([r"a=1\,2"], ({"a": "1,2"},), ()),
        ([r"a=1\,2,3"], ({"a": "1,2"}, {"a": "3"}), ("a",)),
        (["a=1,2", "a=3"], ({"a": "3"},), ()),
        (["a=1,1"], ({"a": "1"},), ()),
    ],
    ids=["none", "one", "empty", "literal comma", "both", "the last one counts", "twice the same"],
)
def test_values(given: list[str], every: tuple[dict[str, str], ...], varied: tuple[str, ...]) -> None:
    assert choices(given) == (every, varied)


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    ("text", "says"), [("suite", "is not NAME=VALUE"), ("=a,b", "is not NAME=VALUE"), ("suite=a,,b", "that is empty")]
)
def test_values_that_are_none(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choices([text])


# ---- locks


@pytest.mark.parametrize(
    ("defines", "varied", "name"),
    [
        ({"suite": "bookworm"}, ["suite"], "x.suite=bookworm.lock"),
        ({"suite": "a", "n": "1", "o": "2"}, ["suite", "n"], "x.n=1,suite=a.lock"),
        ({"p": "a/b,c=d%"}, ["p"], "x.p=a%2Fb%2Cc%3Dd%25.lock"),
        ({"p": "../up"}, ["p"], "x.p=..%2Fup.lock"),
        ({"suite": "a"}, [], "x.lock"),
    ],
)
def test_a_lock_is_called_by_what_varies(defines: dict[str, str], varied: list[str], name: str) -> None:
    assert variant_path("recipes/x.yaml", defines, varied) == Path("recipes", name)


def test_one_value_takes_the_lock_of_the_matrix(tmp_path: Path) -> None:
    recipe = str(tmp_path / "x.yaml")
    for name in ("x.lock", "x.suite=a.lock", "x.n=1,suite=a.lock", "x.n=2.lock", "y.suite=b.lock", "x.suite=b.lock~"):
        (tmp_path / name).touch()

    def found(**defines: str) -> str:
        path = lock_path(recipe, defines)
        assert path is not None
        return path.name

    assert found(suite="a") == "x.suite=a.lock"
    assert found(suite="a", n="1") == "x.n=1,suite=a.lock"
    assert found(suite="a", n="3") == "x.suite=a.lock"
    assert found(suite="b", n="2") == "x.n=2.lock"
    assert found(suite="b") == found() == "x.lock"
    assert lock_path("-", {"suite": "a"}) is None


def test_a_hint_says_the_values() -> None:
    assert spoken("x.yaml", {}) == "x.yaml"
    assert spoken("x.yaml", {"b": "1 2", "a": "x"}) == "x.yaml -D a=x -D 'b=1 2'"


# ---- what cannot be


def recipe(folder: Path, file: str, **more: Any) -> str:
    import json

    path = folder / file
    data = {"version": 1, "name": file.partition(".")[0], "distro": "debian", "suite": "trixie", "arch": ["amd64"]}
    path.write_text(json.dumps(data | {"outputs": ["oci"]} | more))
    return str(path)


def read(*paths: str, define: list[str] | None = None, tags: tuple[str, ...] = ()) -> tuple[Variant, ...]:
    every, varied = choices(define or [])
    options = [Options(defines=values, tags=tags) for values in every]
    return variants([Given(shown=p, path=p, options=o) for p in paths for o in options], varied)


def test_a_recipe_that_cannot_be_read_is_one_job(tmp_path: Path) -> None:
    wrong, right = tmp_path / "wrong.yaml", recipe(tmp_path, "right.yaml", arch=["amd64", "arm64"])
    wrong.write_text("version: 2\n")
    found = read(str(wrong), right, str(tmp_path / "nowhere.yaml"))
    assert [[job.architecture for job in v.jobs] for v in found] == [[""], ["amd64", "arm64"], [""]]
    assert any(fault.where.startswith(f"{wrong}:1") for fault in found[0].faults)
    assert "No such file" in found[2].faults[0].what
    assert clash(found) is None


def test_a_recipe_that_is_named_twice_is_one(tmp_path: Path) -> None:
    path = recipe(tmp_path, "r.yaml")
    assert len(read(path, path)) == 1


@pytest.mark.counts("bad-input")
def test_one_folder_for_two_jobs(tmp_path: Path) -> None:
    path = recipe(tmp_path, "r.yaml", vars={"suite": "trixie"}, suite="${suite}")
    error = clash(read(path, define=["suite=trixie,bookworm"]))
    assert error is not None
    assert error.what == f"`{path} suite=trixie` and `{path} suite=bookworm` would both write out/r/amd64"
    assert error.hint == "put `${suite}` into `name:` of the recipe"
    other = recipe(tmp_path, "other.yaml", name="r")
    error = clash(read(path, other))
    assert error is not None and "another name" in str(error.hint)


@pytest.mark.counts("bad-input")
def test_one_tag_for_two_images(tmp_path: Path) -> None:
    tags = {"image": {"tags": ["same"]}}
    error = clash(read(recipe(tmp_path, "a.yaml", **tags), recipe(tmp_path, "b.yaml", **tags)))
    assert error is not None and "the tag `same:latest`" in error.what
    values = {"vars": {"v": "1"}, "name": "n-${v}", **tags}
    error = clash(read(recipe(tmp_path, "c.yaml", **values), define=["v=1,2"]))
    assert error is not None and error.hint == "put `${v}` into `image.tags` of the recipe"
    assert clash(read(recipe(tmp_path, "a.yaml"), recipe(tmp_path, "b.yaml"), tags=("t",))) is not None
    assert clash(read(recipe(tmp_path, "a.yaml"), recipe(tmp_path, "b.yaml", arch=["arm64"]))) is None
    assert clash(read(recipe(tmp_path, "a.yaml", arch=["amd64", "arm64"], **tags))) is None


def test_images_that_stand_on_others_of_the_run(tmp_path: Path) -> None:
    top = recipe(tmp_path, "top.yaml", image={"from": "mid"})
    base = recipe(tmp_path, "base.yaml", image={"tags": ["base:1"]})
    mid = recipe(tmp_path, "mid.yaml", image={"from": "base:1"})
    apart = recipe(tmp_path, "apart.yaml", image={"from": "base:2"})
    assert bases(read(top, base, mid, apart)) == {0: 2, 2: 1}


@pytest.mark.counts("bad-input")
def test_images_that_stand_on_each_other(tmp_path: Path) -> None:
    a = recipe(tmp_path, "a.yaml", image={"from": "b"})
    b = recipe(tmp_path, "b.yaml", image={"from": "a"})
    with pytest.raises(UsageError, match=r"stand on each other: `.*a\.yaml`, `.*b\.yaml`"):
        bases(read(a, recipe(tmp_path, "c.yaml", image={"from": "a"}), b))


def test_every_variant_of_a_lock_name_is_another(tmp_path: Path) -> None:
    """Whatever stands in a value, two choices never share a lock."""
    values = ["a", "a,b", "a=b", "a%2Cb", "A", "", ".", "..", "a/b", "ä", "a b"]
    names = {variant_path("x.yaml", {"v": value, "w": other}, ["v", "w"]) for value in values for other in values}
    assert len(names) == len(values) ** 2
    assert all(path.parent == Path() and path.name.endswith(".lock") for path in names)


def test_an_empty_lock_is_one() -> None:
    from mkroot.bundle.parcel import EMPTY
    from mkroot.resolve.lock import decode_lock

    assert decode_lock(EMPTY.encode(), "x") == EMPTY
    assert isinstance(EMPTY, Lock)
