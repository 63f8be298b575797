"""The kernel's command line: what the recipe says, and what mkroot adds because the system needs it."""

from __future__ import annotations

import re

from mkroot.errors import BootError

LIMIT = 2047  # bytes that an x86 kernel reads (COMMAND_LINE_SIZE, with its end mark)
_WORDS = re.compile(r'(?:[^\s"]|"[^"]*")+')


def completed(cmdline: str, *, root: str, writable: bool, overlay: bool, image: str, console: str, wait: bool) -> str:
    """Return the recipe's command line with what it leaves open.

    root: the value of `root=`. writable: `rw`, else `ro`. overlay, image: what mkroot's initramfs is to do (see its
    init). console: of the machine, such as `ttyS0`, added where the recipe names no console. wait: the kernel itself
    waits for the root's device. Words of the recipe win (kernel-parameters.txt). Raises BootError where it is too long.
    """
    words = [str(w) for w in _WORDS.findall(cmdline)]
    names = {w.partition("=")[0] for w in words}
    added = []
    if "root" not in names:
        added.append(f"root={root}")
    if not names & {"ro", "rw"}:
        added.append("rw" if writable else "ro")
    if wait and not names & {"rootwait", "rootdelay"}:
        added.append("rootwait")
    if overlay and "mkroot.overlay" not in names:
        added.append("mkroot.overlay")
    if image and "mkroot.image" not in names:
        added.append(f"mkroot.image={image}")
    if "console" not in names:
        added.append(f"console={console}")
    whole = " ".join([*added, *words])
    if len(whole.encode()) > LIMIT:
        raise BootError(
            f"the command line has {len(whole.encode())} bytes, and a kernel reads {LIMIT}", where="boot.cmdline"
        )
    return whole
