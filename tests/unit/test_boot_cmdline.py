"""The kernel's command line: what mkroot adds, and what of the recipe wins."""

from __future__ import annotations

import pytest

from mkroot.boot.cmdline import LIMIT, completed
from mkroot.errors import BootError


def line(cmdline: str = "", **more: object) -> str:
    known: dict[str, object] = {
        "root": "PARTUUID=1",
        "writable": True,
        "overlay": False,
        "image": "",
        "console": "ttyS0",
        "wait": False,
    }
    return completed(cmdline, **(known | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cmdline", "more", "expected"),
    [
        ("", {}, "root=PARTUUID=1 rw console=ttyS0"),
        ("console=hvc0", {"writable": False}, "root=PARTUUID=1 ro console=hvc0"),
        ("root=/dev/sda2 ro", {}, "console=ttyS0 root=/dev/sda2 ro"),
        ('foo="a root=b" quiet', {}, 'root=PARTUUID=1 rw console=ttyS0 foo="a root=b" quiet'),
        ("", {"overlay": True, "writable": False}, "root=PARTUUID=1 ro mkroot.overlay console=ttyS0"),
        ("", {"image": "/x", "writable": False}, "root=PARTUUID=1 ro mkroot.image=/x console=ttyS0"),
        ("", {"wait": True}, "root=PARTUUID=1 rw rootwait console=ttyS0"),
        ("rootdelay=5", {"wait": True}, "root=PARTUUID=1 rw console=ttyS0 rootdelay=5"),
    ],
)
def test_what_is_added(cmdline: str, more: dict[str, object], expected: str) -> None:
    assert line(cmdline, **more) == expected


def test_a_line_that_no_kernel_reads_whole_is_refused() -> None:
    assert len(line("x" * (LIMIT - 40))) <= LIMIT
    with pytest.raises(BootError) as caught:
        line("x" * LIMIT)
    assert caught.value.where == "boot.cmdline"
