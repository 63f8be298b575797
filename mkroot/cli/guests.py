"""What `mkroot boot` and `mkroot test` share: options of the guest, and its media from a recipe's outputs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mkroot.errors import UsageError

if TYPE_CHECKING:
    from mkroot.boot.machine import Machine
    from mkroot.recipe.model import Recipe
    from mkroot.vm.media import Media
    from mkroot.vm.run import Run

T = TypeVar("T")


def add_guest_options(parser: argparse.ArgumentParser) -> None:
    """Add what both commands take."""
    parser.add_argument("-o", dest="out", default="out", metavar="DIR", help="where the outputs are (default: out)")
    parser.add_argument(
        "--machine", metavar="M", help="the machine, such as q35, q35-bios, microvm, nvme, aarch64-virt"
    )
    parser.add_argument(
        "--medium", metavar="KIND", help="start from disk.qcow2, disk.raw, iso, usb (the ISO as a stick) or bootfs"
    )
    parser.add_argument(
        "--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto: KVM where guests get on in it (default)"
    )
    parser.add_argument("--memory", metavar="SIZE", help="the guest's memory, such as 512M")
    parser.add_argument("--cpus", metavar="N", help="the guest's processors (default: 1)")
    parser.add_argument("--console", metavar="FILE", help="keep the console's bytes in this file")


def runner(args: argparse.Namespace) -> Run:
    """Return how guests are run here."""
    from mkroot.cli.terminal import labelled
    from mkroot.vm.run import Run

    def tell(line: str) -> None:
        sys.stderr.write(labelled("note", line))
        sys.stderr.flush()

    return Run(accel=args.accel, environ=os.environ, tell=tell)


def parsed(kind: type[T], text: str, option: str) -> T:
    """Return an option's value as a type of the recipe; raises UsageError."""
    from mkroot.recipe.values import Refused

    try:
        parse: Any = getattr(kind, "parse")  # noqa: B009  # a type of the recipe has it
        value: T = parse(text)
        return value
    except Refused as e:
        raise UsageError(f"`{option} {text}`: {e}") from None


def number(text: str | None, option: str, default: int, most: int) -> int:
    """Return an option that is a number from 1 to `most`; raises UsageError."""
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise UsageError(f"`{option} {text}`: expected a number from 1 to {most}")
    return int(text)


def medium_wanted(text: str | None) -> str | None:
    """Return the wanted kind of medium; raises UsageError for one that is none."""
    if text is None:
        return None
    import difflib

    from mkroot.vm.media import MEDIA

    if text not in MEDIA:
        near = difflib.get_close_matches(text, MEDIA, 1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"`--medium {text}`: no such medium", hint=f"{hint}media are {', '.join(MEDIA)}")
    return text


def prepared(recipe: Recipe, shown: str, architecture: str, args: argparse.Namespace) -> tuple[Machine, Media]:
    """Return a recipe's machine and its media as they were built; raises BootError and VmError."""
    from mkroot.boot.machine import machine_of
    from mkroot.errors import BootError
    from mkroot.vm.media import choose, media_of

    if recipe.boot is None:
        raise BootError(
            "the recipe says nothing of how it boots", where=shown, hint="add `boot:` with a kernel's package"
        )
    folder = Path(args.out) / str(recipe.name) / str(architecture)
    boot = recipe.boot
    more = "" if args.out == "out" else f" -o {args.out}"
    kind = choose(folder, boot.loader, medium_wanted(args.medium), f"mkroot build {shown}{more}")
    loader, firmware = ("direct" if kind == "bootfs" else boot.loader), str(boot.firmware)
    name = args.machine or boot.machine
    if kind in ("iso", "usb"):  # it starts under both
        from mkroot.boot.machine import machine

        loader, firmware = "grub", (machine(str(name)).firmware if name else firmware)
    found = machine_of(None if name is None else str(name), firmware, loader, str(architecture))
    return found, media_of(folder, kind, found)
