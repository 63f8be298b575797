"""What `run` is asked for: options read, and put together with the image's config as Docker does."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from mkroot.container.record import Settings
from mkroot.container.user import User, find_user
from mkroot.container.wish import (
    PATH,
    Volume,
    check_hostname,
    parse_environment,
    parse_memory,
    parse_volume,
    settle,
    signal_number,
)
from mkroot.errors import ContainerError, UsageError
from mkroot.oci.model import Execution


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume("/a", "/b")),
        ("/a/../c:/b/:ro", Volume("/c", "/b", True)),
        ("./x:/b:rw", Volume("/here/x", "/b")),
        ("..:/b", Volume("/", "/b")),
    ],
)
def test_volumes(text: str, volume: Volume) -> None:
    assert parse_volume(text, "/here") == volume


@pytest.mark.parametrize("text", ["", "/a", "/a:b", "data:/b", "/a:/", "/a:/b:rx", "/a:/b/../c", ":/b", "/a:/b:ro:x"])
def test_what_is_no_volume(text: str) -> None:
    with pytest.raises(UsageError):
        parse_volume(text, "/here")


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("1g", 1 << 30), ("1.5GiB", 3 << 29), ("67108864", 64 << 20)]
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "5M", "lots", "-1G", "1GG", "1e9", "inf"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(UsageError):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("sigint", 2),
        ("9", 9),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("0", None),
        ("99", None),
        ("X", None),
    ],
)
def test_signals(text: str, number: int | None) -> None:
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["-a", "a_b", "a" * 65, "a..b", "a\n", ""])
def test_what_is_no_host_name(text: str) -> None:
    with pytest.raises(UsageError):
        check_hostname(text)
    assert check_hostname("box-1.example") == "box-1.example"


def test_environment(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# comment\nA=1\n\n  B=two words\nHOST\nGONE\n")
    found = parse_environment(["A=2", "C=x=y", "HOST2", "E="], [str(file)], {"HOST": "h", "HOST2": "h2"})
    assert found == {"A": "2", "B": "two words", "HOST": "h", "C": "x=y", "HOST2": "h2", "E": ""}
    for words, files in ((["=x"], []), ([""], []), ([], [str(tmp_path / "none")]), (["A\0=1"], [])):
        with pytest.raises(UsageError):
            parse_environment(words, files, {})


@pytest.mark.parametrize(
    ("image", "entrypoint", "command", "argv"),
    [
        ({"cmd": ("sh",)}, None, [], ("sh",)),
        ({"cmd": ("sh",)}, None, ["ls", "-l"], ("ls", "-l")),
        ({"entrypoint": ("e", "1"), "cmd": ("c",)}, None, [], ("e", "1", "c")),
        ({"entrypoint": ("e", "1"), "cmd": ("c",)}, None, ["d"], ("e", "1", "d")),
        ({"entrypoint": ("e", "1"), "cmd": ("c",)}, ("f",), [], ("f",)),
        ({"entrypoint": ("e", "1"), "cmd": ("c",)}, ("f",), ["d"], ("f", "d")),
        ({"entrypoint": ("e", "1"), "cmd": ("c",)}, (), ["d"], ("d",)),
    ],
)
def test_entrypoint_and_command(image: Any, entrypoint: Any, command: list[str], argv: tuple[str, ...]) -> None:
    assert settle(Settings(entrypoint=entrypoint), {}, command, Execution(**image), "")[0] == argv


def test_an_image_without_a_command_needs_one() -> None:
    for given in (Settings(), Settings(entrypoint=())):
        with pytest.raises(ContainerError, match="no command"):
            settle(given, {}, [], Execution(), "")


def test_the_image_says_what_the_command_line_does_not() -> None:
    image = Execution(env=("A=image", "B=image"), cmd=("x",), user="app:app", working_dir="srv", stop_signal="SIGQUIT")
    _, settings = settle(Settings(hostname="box"), {"A": "given"}, [], image, "screen")
    assert settings.env == (f"PATH={PATH}", "HOSTNAME=box", "A=given", "B=image")
    assert (settings.user, settings.workdir, settings.stop_signal) == ("app:app", "/srv", signal.SIGQUIT)
    _, settings = settle(Settings(user="7", workdir="/w", tty=True), {}, [], image, "screen")
    assert (settings.user, settings.workdir) == ("7", "/w")
    assert "TERM=screen" in settings.env
    with pytest.raises(ContainerError, match="absolute"):
        settle(Settings(workdir="w"), {}, [], image, "")


PASSWD = b"root:x:0:0:root:/root:/bin/sh\n# x\napp:x:10:20::/srv:/bin/sh\nbroken\nodd:x:y:z::/:\n12:x:77:77::/n:\n"
GROUP = b"root:x:0:\nwheel:x:5:app,root\nsnd:x:6:app\napp:x:20:\n"


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("", User(groups=(5,), home="/root")),
        ("root", User(groups=(5,), home="/root")),
        ("app", User(uid=10, gid=20, groups=(5, 6), home="/srv")),
        ("10", User(uid=10, gid=20, groups=(5, 6), home="/srv")),
        ("app:snd", User(uid=10, gid=6, home="/srv")),
        ("app:7", User(uid=10, gid=7, home="/srv")),
        ("99", User(uid=99)),
        ("12:34", User(uid=12, gid=34)),
        (":5", User(gid=5, home="/root")),
    ],
)
def test_users(text: str, user: User) -> None:
    assert find_user(text, PASSWD, GROUP) == user


@pytest.mark.parametrize("text", ["nobody", "app:nobody", "odd", "4294967295", "app:2147483648", "-1", "²"])
def test_users_that_there_are_not(text: str) -> None:
    with pytest.raises(ContainerError):
        find_user(text, PASSWD, GROUP)


def test_an_image_without_users_has_root() -> None:
    assert find_user("", b"", b"") == User()
    with pytest.raises(ContainerError, match="no user `root`"):
        find_user("root", b"", b"")
