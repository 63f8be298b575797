"""Runs preinst scripts as dpkg does on a first installation (Policy 6.6)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from mkroot.errors import SandboxError
from mkroot.rootfs import dpkg, linux
from mkroot.rootfs.capture import COARSE, Event
from mkroot.rootfs.memo import Memo
from mkroot.rootfs.sandbox import Sandbox
from mkroot.store.layer import Layer
from mkroot.store.unpack import INFO, control_fields, info_name
from mkroot.tar.entry import DIR

NAME = "preinst"
LENT = f"{dpkg.ADMIN}/tmp.ci"  # where dpkg unpacks control files
DIVERTING = b"dpkg-divert"  # in the text of a script that says where files of others go
_WORD = re.compile(rb"[^\s/\"'`$(){};|&<>=]+")


def with_preinst(packages: Sequence[Layer]) -> list[Layer]:
    """Return the packages that have such a script."""
    return [p for p in packages if NAME in p.control]


def diverts(package: Layer) -> bool:
    """Tell whether the package's preinst may divert files before its own are unpacked."""
    return DIVERTING in package.control.get(NAME, b"")


def parts(packages: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Yield packages in runs: the preinst of one that diverts files of those before it needs them to be there.

    Whose files they are is told from names in the script. One that makes up names runs before they are there, and
    they are unpacked to where the diversion says, which is what a diversion that renames comes to.
    """
    run: list[Layer] = []
    names: set[bytes] = set()
    for package in packages:
        if run and diverts(package) and not names.isdisjoint(_WORD.findall(package.control[NAME])):
            yield run
            run, names = [], set()
        run.append(package)
        names |= {os.fsencode(e.path.rpartition("/")[2]) for e in package.entries if e.kind != DIR}
    if run:
        yield run


def run_preinsts(
    box: Sandbox,
    packages: Sequence[Layer],
    events: list[Event],
    note: Callable[[str], None],
    memo: Memo | None,
    outside: Path | None = None,
) -> None:
    """Call each package's preinst with `install`; raises SandboxError naming the one that failed.

    outside: where the root is mounted, of packages whose own trees are not in it yet. note: called with each script.
    """
    for layer in packages:
        fields = control_fields(layer.control["control"])
        name = info_name(fields)
        script = f"/{INFO}/{name}.{NAME}"
        if outside is not None:  # dpkg puts it here, too
            lend(outside, layer.control[NAME])
            script = f"/{LENT}/{NAME}"
        events.append(Event(time.clock_gettime(COARSE), f"{layer.name} {NAME}"))
        note(f"{layer.name} {NAME}")
        done = box.run(
            [script, "install"],
            environment={
                "DPKG_MAINTSCRIPT_PACKAGE": layer.name,
                "DPKG_MAINTSCRIPT_ARCH": fields["architecture"],
                "DPKG_MAINTSCRIPT_NAME": NAME,
                "DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT": "1",
                "DPKG_ADMINDIR": "/var/lib/dpkg",
                "DPKG_RUNNING_VERSION": "1.21.1",
                "DPKG_ROOT": "",
            },
        )
        if memo is not None:
            memo.settle(done.left)
        note("")
        if outside is not None:
            lend(outside, None)
        if done.returncode:
            raise SandboxError(
                f"the preinst script of {layer.name} failed with status {done.returncode}: {tail(done.output)}",
                hint="the script is the package's own; leave the package out, or report it to the distribution",
            )


def lend(at: Path, script: bytes | None) -> None:
    """Put a preinst into the mounted root, or take it away; raises SandboxError where that is not dpkg's folder.

    An earlier script may have put links there, which would be this host's: none is followed.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with ExitStack() as stack:
        try:
            root = os.open(at, flags)
            stack.callback(os.close, root)
            admin = linux.open_beneath(root, dpkg.ADMIN, flags)
            stack.callback(os.close, admin)
            name = LENT.rpartition("/")[2]
            if script is not None:
                os.mkdir(name, 0o755, dir_fd=admin)
            folder = os.open(name, flags, dir_fd=admin)
            stack.callback(os.close, folder)
            if script is None:
                os.unlink(NAME, dir_fd=folder)
                os.rmdir(name, dir_fd=admin)
                return
            new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(NAME, new, 0o700, dir_fd=folder), "wb") as f:
                f.write(script)
                os.fchmod(f.fileno(), 0o755)
            os.fchmod(folder, 0o755)  # whatever the umask is
        except OSError as e:
            raise SandboxError(
                f"a preinst script cannot be put into /{LENT}: {e.strerror}",
                hint="a script that ran before changed dpkg's folder; leave its package out, or report it",
            ) from e


def tail(output: bytes) -> str:
    """Return the last lines of what a script printed, for a message."""
    lines = output.decode("utf-8", "backslashreplace").strip().splitlines()
    return "\n  " + "\n  ".join(lines[-12:]) if lines else "it printed nothing"
