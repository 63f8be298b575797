"""Which remote store is used and with which key: from variables, from the configuration, told in words where wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mkroot import remote
from mkroot.archive import config
from mkroot.archive.config import Config
from mkroot.errors import RecipeError, StoreError
from mkroot.remote.machine import FILE
from mkroot.store.store import Store
from tests.unit.registryserver import MemoryRegistry, Request, memory_registry

KEY = "0123456789abcdef" * 4
NAME = "registry.example:5000/team/store"


def given(folder: Path, text: str = "", **environ: str) -> remote.Settings | None:
    """Read the settings with a configuration of this text."""
    path = folder / "config.toml"
    path.write_text(text)
    environ = {"MKROOT_CONFIG": str(path), **environ}
    return remote.settings(environ, config.load(environ))


def test_nobody_asked_for_one(tmp_path: Path) -> None:
    assert given(tmp_path, "[mirrors]\n") is None
    assert not (tmp_path / "store.key").exists()


def test_the_configuration_names_it(tmp_path: Path) -> None:
    (tmp_path / "team.key").write_text(f"  {KEY}\n")
    found = given(tmp_path, f'[store]\nremote = "{NAME}"\nkey = "team.key"\n')
    assert found == remote.Settings(host="registry.example:5000", path="team/store", secret=bytes.fromhex(KEY))


def test_variables_win(tmp_path: Path) -> None:
    text = '[store]\nremote = "other.example/x"\nkey = "not-there"\n'
    found = given(tmp_path, text, MKROOT_STORE_REMOTE=NAME, MKROOT_STORE_KEY=KEY.upper())
    assert found is not None and (found.name, found.secret.hex(), found.strict) == (NAME, KEY, False)


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert given(tmp_path, f'[store]\nremote = "{NAME}"\n', MKROOT_STORE_REMOTE="") is None


def test_another_process_gets_the_same(tmp_path: Path) -> None:
    found = given(tmp_path, MKROOT_STORE_REMOTE=NAME, MKROOT_STORE_KEY=KEY, MKROOT_STORE_REMOTE_STRICT="1")
    assert found is not None and found.strict
    assert remote.settings(found.environ(), Config()) == found


def test_the_secret_is_not_shown() -> None:
    settings = remote.Settings(host="registry.example", path="x", secret=bytes.fromhex(KEY))
    secret = bytes.fromhex(KEY)
    for shown in (repr(settings), str(settings), f"{settings}", repr([settings])):
        assert KEY not in shown and repr(secret) not in shown and NAME.partition("/")[0][:8] in shown


def test_a_key_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    told: list[str] = []
    found = remote.settings({}, Config(remote=NAME, path=str(tmp_path / "config.toml")), told.append)
    path = tmp_path / "store.key"
    assert found is not None and path.read_text() == found.secret.hex() + "\n" and len(found.secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [line] = told
    assert str(path) in line and "every machine" in line and found.secret.hex() not in line
    assert remote.settings({}, Config(remote=NAME, path=str(tmp_path / "config.toml")), told.append) == found
    assert len(told) == 1 and os.listdir(tmp_path) == ["store.key"]


def test_without_a_configuration_the_key_is_in_its_folder(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "MKROOT_STORE_REMOTE": NAME}
    assert remote.settings(environ, config.load(environ)) is not None
    assert (tmp_path / "mkroot" / "store.key").exists()


REFERENCES = {
    "an address": ("https://registry.example/x", "is an address, not a repository"),
    "an address with a login": ("https://me:s3cret@registry.example/x", "is an address, not a repository"),
    "a login": ("me:s3cret@registry.example/x", "has a login or a digest in its name"),
    "a digest": (f"registry.example/x@sha256:{'0' * 64}", "has a login or a digest in its name"),
    "a tag": ("registry.example/x:1", "has a tag"),
    "the latest tag": ("registry.example/x:latest", "has a tag"),
    "no host": ("team/store", "names no registry"),
    "no repository": ("registry.example", "names no registry"),
    "upper case": ("registry.example/Team", "names are lower case"),
    "a port that is none": ("registry.example:99999/x", "no valid port"),
    "spaces": ("registry.example/a b", "is not an image reference"),
    "control characters": ("registry.example/\x1b[31m", "is not an image reference"),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("case", REFERENCES)
@pytest.mark.parametrize("how", ["variable", "configuration"])
def test_a_name_that_is_none(tmp_path: Path, case: str, how: str) -> None:
    text, said = REFERENCES[case]
    with pytest.raises(StoreError, match=said) as caught:
        if how == "variable":
            remote.settings({"MKROOT_STORE_REMOTE": text, "MKROOT_STORE_KEY": KEY}, Config())
        else:
            remote.settings({"MKROOT_STORE_KEY": KEY}, Config(remote=text, path=str(tmp_path / "config.toml")))
    assert "s3cret" not in str(caught.value) and "\x1b" not in str(caught.value)
    where = "MKROOT_STORE_REMOTE" if how == "variable" else "config.toml: store.remote"
    assert where in (caught.value.where or "") and "registry.example:5000/team/store" in (caught.value.hint or "")


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("key", ["", "secret", "abc", "0" * 30, "0" * 33, "0x" + "0" * 64, "ü" * 40, KEY + " " + KEY])
@pytest.mark.parametrize("how", ["variable", "file"])
def test_a_key_that_is_none(tmp_path: Path, key: str, how: str) -> None:
    (tmp_path / "store.key").write_text(key)
    environ = {"MKROOT_STORE_KEY": key} if how == "variable" else {}
    with pytest.raises(StoreError, match="must be 32 hexadecimal digits or more") as caught:
        remote.settings(environ, Config(remote=NAME, path=str(tmp_path / "config.toml")))
    assert not key or key not in str(caught.value)
    assert (tmp_path / "store.key").read_text() == key


@pytest.mark.counts("bad-input")
def test_a_named_key_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not there, and `store\.key` names it"):
        remote.settings({}, Config(remote=NAME, key="team.key", path=str(tmp_path / "config.toml")))
    assert not os.listdir(tmp_path)


@pytest.mark.counts("bad-input")
def test_a_key_that_cannot_be_read_or_made(tmp_path: Path) -> None:
    (tmp_path / "store.key").mkdir()
    with pytest.raises(StoreError, match="the key of the remote store cannot be read: Is a directory"):
        remote.settings({}, Config(remote=NAME, path=str(tmp_path / "config.toml")))
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be"):
        remote.settings({}, Config(remote=NAME, path=str(tmp_path / "file" / "config.toml")))


SECTIONS = {
    "an unknown key": ("[store]\nremotes = 'x'\n", "unknown key `store.remotes`"),
    "a number": ("[store]\nremote = 5\n", "`store.remote` must be an address in quotes"),
    "a key that is a list": ("[store]\nkey = []\n", "`store.key` must be a file's name in quotes"),
    "no section": ("store = 'registry.example/x'\n", "`store` is a section, not a value"),
    "another section": ("[stores]\nremote = 'x'\n", "unknown section or key `stores`"),
}


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("case", SECTIONS)
def test_a_section_that_is_wrong(tmp_path: Path, case: str) -> None:
    text, said = SECTIONS[case]
    with pytest.raises(RecipeError, match=said):
        given(tmp_path, text)


# Who made something


def test_a_store_has_one_name(tmp_path: Path) -> None:
    first = remote.machine_id(Store(tmp_path / "a"))
    assert len(first) == 32 and remote.machine_id(Store(tmp_path / "a")) == first
    assert remote.machine_id(Store(tmp_path / "b")) != first


@pytest.mark.counts("fault")
@pytest.mark.parametrize("torn", ["", "\0" * 33, "abc", "x" * 32])
def test_a_name_that_power_tore_is_made_anew(tmp_path: Path, torn: str) -> None:
    store = Store(tmp_path)
    (tmp_path / FILE).write_text(torn)
    found = remote.machine_id(store)
    assert len(found) == 32 and remote.machine_id(store) == found


# Whether it can be used


def check(registry: MemoryRegistry | str, folder: Path, secret: bytes = bytes.fromhex(KEY)) -> None:
    host = registry if isinstance(registry, str) else registry.host
    settings = remote.Settings(host=host, path="team/store", secret=secret)
    remote.check(settings, {"HOME": str(folder)}, Store(folder / "store"))


def test_a_remote_store_that_can_be_used(tmp_path: Path) -> None:
    with memory_registry() as registry:
        check(registry, tmp_path)
        check(registry, tmp_path)
        assert [tag for _, tag in registry.manifests if ":" not in tag] == ["probe-check"], "nothing piles up"
    assert not list((tmp_path / "store" / "tmp").iterdir())


def refuse(status: int, code: str) -> object:
    def deal(request: Request) -> None:
        request.body()
        request.refuse(status, code)

    return deal


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("method", "part", "status", "said", "hint"),
    [
        ("GET", "/manifests/", 403, "cannot be read", "mkroot login"),
        ("PUT", "/manifests/", 403, "cannot be written", "log in with rights to push"),
        ("POST", "/uploads/", 401, "cannot be written", "log in with rights to push"),
        ("PUT", "/uploads/", 507, "cannot be written", "make room there"),
        ("GET", "/v2/", 404, "cannot be read: this is not a registry", "right host and port"),
    ],
)
def test_a_remote_store_that_cannot(tmp_path: Path, method: str, part: str, status: int, said: str, hint: str) -> None:
    with memory_registry() as registry:
        registry.once(method, part, refuse(status, "DENIED"), times=10**6)  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=said) as caught:
            check(registry, tmp_path)
    assert hint in (caught.value.hint or "") and f"{registry.host}/team/store" in str(caught.value)


@pytest.mark.counts("fault")
def test_a_remote_store_that_is_not_there(tmp_path: Path) -> None:
    with memory_registry() as registry:
        pass
    with pytest.raises(StoreError, match="cannot be reached: the registry does not answer"):
        check(registry.host, tmp_path)


@pytest.mark.counts("fault")
def test_a_remote_store_of_another_key(tmp_path: Path) -> None:
    with memory_registry() as registry:
        check(registry, tmp_path)
        with pytest.raises(StoreError, match="is sealed with another key") as caught:
            check(registry, tmp_path, b"x" * 32)
        assert "have all machines the same key" in (caught.value.hint or "")


@pytest.mark.counts("fault")
def test_a_remote_store_that_forgets(tmp_path: Path) -> None:
    with memory_registry() as registry:
        registry.once("PUT", "/manifests/", lambda r: (r.body(), r.answer(201))[1], times=10**6)
        with pytest.raises(StoreError, match="does not give out what was put there"):
            check(registry, tmp_path)
        check_tag = ("team/store", "probe-check")
        assert check_tag not in registry.manifests
