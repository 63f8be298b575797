"""Where logins are kept: Docker's file with its mode and its other keys, credential helpers, podman's file."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from mkroot.errors import ImageError
from mkroot.oci.registry.credentials import Credential, Credentials
from tests.unit.commands import Program

HOST = "registry.example:5000"
ME = Credential(user="me", password="pass:word ä")
HELPER = """#!/bin/sh
# Keeps logins in a folder, as docker-credential-helpers do.
cd "$KEPT" || exit 1
case "$1" in
store) cat > entry ;;
get) read host; [ -e entry ] && grep -q "$host" entry && cat entry && exit
     echo "credentials not found in native keychain"; exit 1 ;;
erase) rm -f entry ;;
esac
"""


def place(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], **more}


def written(tmp_path: Path, document: object, name: str = "home/.docker/config.json") -> Path:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_what_is_kept_is_found_and_dropped(tmp_path: Path) -> None:
    credentials = Credentials(place(tmp_path))
    assert credentials.find(HOST) is None
    file = Path(credentials.keep(HOST, ME))
    assert file == tmp_path / "home/.docker/config.json"
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    assert credentials.find(HOST) == ME and credentials.find("registry.example") is None
    assert credentials.drop(HOST) and credentials.find(HOST) is None and not credentials.drop(HOST)
    assert [p.name for p in file.parent.iterdir()] == ["config.json"], "nothing else is left there"


def test_other_keys_of_the_file_stay(tmp_path: Path) -> None:
    before = {
        "psFormat": "x",
        "auths": {"other.example": {"auth": "b3RoZXI6eA==", "email": "a@b"}},
        "proxies": {"a": 1},
    }
    file = written(tmp_path, before)
    file.chmod(0o644)
    Credentials(place(tmp_path)).keep(HOST, ME)
    after = json.loads(file.read_bytes())
    assert after.pop("auths") == {**before.pop("auths"), HOST: entry(ME.user, ME.password)}  # type: ignore[dict-item]
    assert after == before and list(after) == ["psFormat", "proxies"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    real = written(tmp_path, {}, "dotfiles/docker.json")
    link = tmp_path / "home/.docker/config.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(real)
    Credentials(place(tmp_path)).keep(HOST, ME)
    assert link.is_symlink() and HOST in real.read_text()


def test_the_folder_is_that_of_docker_config(tmp_path: Path) -> None:
    credentials = Credentials(place(tmp_path, DOCKER_CONFIG=str(tmp_path / "else")))
    assert credentials.keep(HOST, ME) == str(tmp_path / "else/config.json")


@pytest.mark.parametrize("name", [f"https://{HOST}/v1/", f"http://{HOST}", f"{HOST}/"])
def test_names_of_old_versions_of_docker(tmp_path: Path, name: str) -> None:
    written(tmp_path, {"auths": {name: entry("me", "x")}})
    credentials = Credentials(place(tmp_path))
    found = credentials.find(HOST)
    assert found is not None and found.user == "me"
    assert credentials.drop(HOST) and credentials.find(HOST) is None


def test_podmans_file_is_read_after_dockers(tmp_path: Path) -> None:
    run = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    written(tmp_path, {"auths": {HOST: entry("runtime", "x")}}, "run/containers/auth.json")
    written(tmp_path, {"auths": {HOST: entry("config", "x")}}, "home/.config/containers/auth.json")
    named = written(tmp_path, {"auths": {HOST: entry("named", "x")}}, "named.json")

    def user(**more: str) -> str:
        found = Credentials(place(tmp_path, **more)).find(HOST)
        return found.user if found else ""

    assert user() == "config" and user(**run) == "runtime"
    assert user(**run, REGISTRY_AUTH_FILE=str(named)) == "named"
    written(tmp_path, {"auths": {HOST: entry("docker", "x")}})
    assert user(**run, REGISTRY_AUTH_FILE=str(named)) == "docker"


@pytest.mark.parametrize("setting", [{"credsStore": "box"}, {"credHelpers": {HOST: "box"}}])
def test_a_credential_helper_keeps_finds_and_erases(tmp_path: Path, setting: dict[str, object]) -> None:
    file = written(tmp_path, {**setting, "auths": {HOST: {}}})
    helper = written(tmp_path, HELPER, "bin/docker-credential-box")
    helper.chmod(0o755)
    (tmp_path / "kept").mkdir()
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    credentials = Credentials(place(tmp_path, PATH=path, KEPT=str(tmp_path / "kept")))
    assert credentials.find(HOST) is None
    assert credentials.keep(HOST, ME) == "the credential helper `box`"
    assert ME.password not in file.read_text() and HOST not in json.loads(file.read_bytes())["auths"]
    assert credentials.find(HOST) == ME
    (tmp_path / "kept/entry").write_text(json.dumps({"ServerURL": HOST, "Username": "<token>", "Secret": "t"}))
    assert credentials.find(HOST) == Credential(token="t")
    assert credentials.drop(HOST) and not (tmp_path / "kept/entry").exists()


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "cannot be run: No such file"),
        ("#!/bin/sh\necho secret; exit 3\n", r"failed to get the login for `registry.example:5000` \(status 3\)"),
        ("#!/bin/sh\necho secret\n", "answers with something else than a login"),
    ],
)
def test_a_helper_that_fails_is_told_without_its_words(tmp_path: Path, script: str | None, message: str) -> None:
    written(tmp_path, {"credsStore": "box"})
    if script:
        written(tmp_path, script, "bin/docker-credential-box").chmod(0o755)
    (tmp_path / "bin").mkdir(exist_ok=True)
    with pytest.raises(ImageError, match=message) as e:
        Credentials(place(tmp_path, PATH=f"{tmp_path}/bin:{os.environ['PATH']}")).find(HOST)
    assert "secret" not in str(e.value)


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ({"auths": []}, "`auths` is not an object"),
        ({"auths": {HOST: {"auth": "no base64!"}}}, "the login for `registry.example:5000` is damaged"),
        ({"auths": {HOST: {"auth": "bm9jb2xvbg=="}}}, "the login for `registry.example:5000` is damaged"),
        ({"credsStore": "../../bin/sh"}, "the name of a credential helper"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, document: object, message: str) -> None:
    file = written(tmp_path, document)
    before = file.read_text()
    with pytest.raises(ImageError, match=message):
        Credentials(place(tmp_path)).find(HOST)
    if message.endswith("object"):
        with pytest.raises(ImageError, match=message):
            Credentials(place(tmp_path)).keep(HOST, ME)
        assert file.read_text() == before


def test_a_credential_does_not_show_its_password() -> None:
    assert "word" not in repr(ME) and "word" not in f"{ME}" and "t0ken" not in repr(Credential(token="t0ken"))


# The commands


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (["login", "registry.example"], "", "missing: the user"),
        (["login", "registry.example", "-u", "me"], "", "standard input is no terminal"),
        (["login", "registry.example", "-u", "me", "--password-stdin"], "", "the password is empty"),
        (["login", "registry.example", "-u", "me", "--password-stdin"], "a\nb\n", "has more than one line"),
        (["login", "registry.example", "-u", "m:e", "--password-stdin"], "x", "is not a user's name"),
        (["login", "https://registry.example"], "", "is not a registry's host"),
        (["logout", "registry"], "", "is not a registry's host"),
        (["tags", "registry.example/box:1"], "", "neither tag nor digest"),
        (["pull", "--arch", "z80", "registry.example/box"], "", "no such architecture"),
        (["pull", "--arch", "amd64", "--all-arch", "registry.example/box"], "", "not allowed with"),
    ],
)
def test_wrong_command_lines(tmp_path: Path, words: list[str], stdin: str, message: str) -> None:
    done = Program(tmp_path)(*words, stdin=stdin)
    assert done.status == 2 and message in done.err and not done.out, done.err


@pytest.mark.parametrize("command", ["push", "pull", "tags"])
def test_no_registry_is_the_default(tmp_path: Path, command: str) -> None:
    done = Program(tmp_path)(command, "team/box")
    assert done.status == 1 and "`team/box` names no registry" in done.err
    assert "registry.example/team/box" in done.err and "mkroot tag" in done.err
