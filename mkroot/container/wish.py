"""What `run` was asked for and what the image says, put together as Docker does (image-spec, config.md, `config`)."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mkroot.container.record import Settings
from mkroot.errors import ContainerError, UsageError
from mkroot.oci.model import Execution

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MEMORY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([bkmgt]?)(?:i?b)?", re.IGNORECASE)
_HOSTNAME = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


class Volume(Struct, frozen=True):
    """A folder or file of the host that is shown in the container."""

    host: str
    path: str
    read_only: bool = False


def parse_volume(text: str, cwd: str) -> Volume:
    """Read `HOST:PATH[:ro|rw]`; a host path that begins with `/`, `.` or `~`. Raises UsageError.

    cwd: what a relative host path is relative to.
    """
    host, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not host or not path.startswith("/") or mode not in ("", "ro", "rw"):
        raise UsageError(f"`-v {text}` is not HOST:PATH[:ro]", hint="PATH is absolute: `-v ./src:/src:ro`")
    if not host.startswith(("/", ".", "~")):
        raise UsageError(
            f"`-v {text}`: `{host}` is not a path of this host",
            hint=f"there are no named volumes; write `./{host}` for a folder beside you",
        )
    host = os.path.join(cwd, os.path.expanduser(host))
    if ".." in path.split("/") or not path.strip("/"):
        raise UsageError(f"`-v {text}`: `{path}` is no place for a mount", hint="name a folder below `/`")
    return Volume(os.path.normpath(host), "/" + path.strip("/"), mode == "ro")


def parse_memory(text: str) -> int:
    """Read a size such as `512M` or `1.5g`, in binary units as Docker has them; raises UsageError."""
    found = _MEMORY.fullmatch(text.strip())
    size = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if size < 6 << 20:
        raise UsageError(f"`--memory {text}` is not a size of 6M or more", hint="such as `--memory 512M`")
    return size


def check_hostname(text: str) -> str:
    """Return a host name (hostname(7)); raises UsageError where it is none."""
    if len(text) > 64 or not _HOSTNAME.fullmatch(text):
        raise UsageError(f"`--hostname {text}` is not a host name", hint="letters, digits, `-` and `.`, 64 at most")
    return text


def parse_environment(words: Sequence[str], files: Sequence[str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `-e` and `--env-file`; a bare NAME takes its value from `own`, if it has one there.

    Raises UsageError for what is no variable or no readable file.
    """
    found: dict[str, str] = {}
    lines: list[tuple[str, str]] = []
    for file in files:
        try:
            with open(file, encoding="utf-8") as f:
                rows = [row.strip("\r\n").lstrip() for row in f]
        except (OSError, ValueError) as e:
            raise UsageError(f"`--env-file {file}` cannot be read: {getattr(e, 'strerror', None) or e}") from e
        lines += [(f"--env-file {file}", row) for row in rows if row and not row.startswith("#")]
    for origin, word in [*lines, *(("-e", w) for w in words)]:
        name, equals, value = word.partition("=")
        if not name or "\0" in word or name != name.strip():
            raise UsageError(f"`{origin}`: `{word}` is not NAME=VALUE")
        if equals:
            found[name] = value
        elif name in own:
            found[name] = own[name]
    return found


def signal_number(text: str) -> int | None:
    """Return the number of `SIGTERM`, `TERM`, `15` or `RTMIN+3`; None where it is no signal."""
    word = text.upper().removeprefix("SIG")
    if word.isascii() and word.isdecimal():
        number = int(word[:10])
        return number if 0 < number < signal.NSIG else None
    if (found := re.fullmatch(r"RTMIN(?:\+(\d{1,2}))?", word)) is not None:
        number = int(signal.SIGRTMIN) + int(found[1] or 0)
        return number if number <= signal.SIGRTMAX else None
    named = getattr(signal, f"SIG{word}", None) if word.isalnum() else None
    return int(named) if named is not None else None


def settle(
    given: Settings, environment: Mapping[str, str], command: Sequence[str], image: Execution, term: str
) -> tuple[tuple[str, ...], Settings]:
    """Return the command line and the settings of a new container; raises ContainerError where there is no command.

    given: what the command line says, "" and None where it says nothing. environment: of the command line. command:
    the words after the image. term: the user's own TERM, for a terminal.
    An entrypoint that is given takes the image's command away, as well as its entrypoint.
    """
    if given.entrypoint is None:
        argv = (*(image.entrypoint or ()), *(command or image.cmd or ()))
    else:
        argv = (*given.entrypoint, *command)
    if not argv or not argv[0]:
        raise ContainerError("the image names no command", hint="say what to run: `mkroot run REF COMMAND`")
    if any("\0" in word for word in argv):
        raise ContainerError("a command line cannot hold a zero byte")
    variables = {"PATH": PATH, "HOSTNAME": given.hostname}
    if given.tty:
        variables["TERM"] = term or "xterm"
    for word in image.env or ():
        name, equals, value = word.partition("=")
        if name and equals:
            variables[name] = value
    variables.update(environment)
    workdir = given.workdir or image.working_dir or "/"
    if not workdir.startswith("/"):
        if given.workdir:
            raise ContainerError(f"`-w {workdir}` is not an absolute path")
        workdir = "/" + workdir
    return argv, replace(
        given,
        env=tuple(f"{name}={value}" for name, value in variables.items()),
        user=given.user or image.user,
        workdir=workdir,
        stop_signal=signal_number(image.stop_signal or "SIGTERM") or int(signal.SIGTERM),
    )
