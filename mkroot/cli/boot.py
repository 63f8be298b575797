"""`mkroot boot`: start a system under QEMU with its console on the terminal."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkroot.cli.guests import add_guest_options, number, parsed, prepared, runner
from mkroot.cli.options import add_recipe_options, options_of
from mkroot.errors import UsageError

if TYPE_CHECKING:
    from mkroot.boot.machine import Machine
    from mkroot.vm.guest import Direct, Forward, Guest
    from mkroot.vm.media import Media

RECIPES = (".yaml", ".yml", ".json")
DISKS = (".raw", ".img", ".qcow2", ".iso")
MEMORY = 1 << 30  # bytes, where neither a recipe nor the command line says it


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "boot",
        help="start a system under QEMU, on the terminal",
        description="Start what was built from a recipe, a disk, an ISO, or an image with a distribution's kernel "
        "under QEMU, with its console on the terminal. Ctrl-A X leaves, Ctrl-A H shows more keys. What the guest "
        "writes is thrown away unless --no-snapshot is given.",
    )
    parser.add_argument(
        "system", metavar="RECIPE|DISK|ISO|REF", nargs="?", help="a recipe's file, a disk, an ISO, an image"
    )
    snapshot = parser.add_mutually_exclusive_group()
    snapshot.add_argument(
        "--snapshot", action="store_true", default=True, help="throw the guest's writes away (default)"
    )
    snapshot.add_argument("--no-snapshot", dest="snapshot", action="store_false", help="let the guest change its disk")
    parser.add_argument(
        "--port", action="append", default=[], metavar="HOST:GUEST", help="lead a TCP port of this host to the guest"
    )
    parser.add_argument("--disk", action="append", default=[], metavar="FILE", help="a further disk; may be repeated")
    parser.add_argument("--kernel", metavar="FILE|PKG", help="have QEMU load this kernel; of an image: its package")
    parser.add_argument("--initrd", metavar="FILE", help="the initramfs for --kernel")
    parser.add_argument("--append", metavar="WORDS", help="the command line for --kernel; with a recipe, words to add")
    parser.add_argument(
        "--archive", metavar="DISTRO/SUITE", help="of an image: where its kernel's package is (default: its own)"
    )
    add_guest_options(parser)
    add_recipe_options(parser, online=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the guest until it ends or the user leaves; 0, unless it could not be started."""
    from mkroot.cli.terminal import amount, plural
    from mkroot.vm.run import boot

    guest = _guest(args)
    machine = guest.machine
    words = f"{machine.name}, {amount(guest.memory)}, {plural(guest.cpus, 'processor')}; Ctrl-A X leaves"
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()
    boot(guest, runner(args), Path(args.console) if args.console else None)
    return 0


def _guest(args: argparse.Namespace) -> Guest:
    import msgspec

    from mkroot.recipe.numbers import Size
    from mkroot.vm.guest import Guest, disk_of

    if args.system is not None and args.system != "-" and not args.system.endswith(RECIPES):
        args.system = _of_image(args) or args.system
    if args.system is not None and (args.system == "-" or args.system.endswith(RECIPES)):
        machine, media, memory = _of_recipe(args)
    else:
        machine, media, memory = _of_file(args)
    if args.memory:
        memory = parsed(Size, args.memory, "--memory")
    direct = media.direct
    if args.kernel:
        direct = _direct(args)
    elif args.initrd:
        raise UsageError("`--initrd` goes with `--kernel`")
    elif args.append and direct is not None:
        direct = msgspec.structs.replace(direct, cmdline=f"{direct.cmdline} {args.append}".strip())
    elif args.append:
        raise UsageError("`--append` is for a kernel that QEMU loads, and here a boot loader does")
    return Guest(
        machine=machine,
        memory=memory,
        cpus=number(args.cpus, "--cpus", 1, 64),
        disk=media.disk,
        cdrom=media.cdrom,
        usb=media.usb,
        direct=direct,
        disks=tuple(disk_of(Path(d)) for d in args.disk),
        forwards=tuple(forward(p) for p in args.port),
        snapshot=args.snapshot,
    )


def _of_recipe(args: argparse.Namespace) -> tuple[Machine, Media, int]:
    from mkroot.build import open_recipe
    from mkroot.vm.host import ARCHITECTURES

    recipe = open_recipe(args.system, options_of(args, out=Path(args.out)))
    own = ARCHITECTURES.get(platform.machine(), "amd64")
    names = [str(a) for a in recipe.arch]
    machine, media = prepared(recipe, args.system, own if own in names else names[0], args)
    return machine, media, int(recipe.test.memory)


def _of_image(args: argparse.Namespace) -> str | None:
    """Build the machine of an image, and return its recipe's path; None where a disk or an ISO is meant."""
    import os
    import subprocess

    from mkroot.cli.inspect import the_image
    from mkroot.machines import machine_recipe
    from mkroot.oci.inventory import is_image_archive
    from mkroot.oci.layers import image_root
    from mkroot.store.layer import LayerStore
    from mkroot.store.store import Store, default_root

    given = Path(args.system)
    if given.is_dir() or (given.is_file() and is_image_archive(given)):
        args.system = _loaded(given)
    elif given.exists() or given.is_absolute() or given.suffix in DISKS:
        return None
    images, image = the_image(args.system, args.arch[0] if args.arch else None)
    tree = image_root(LayerStore(Store(default_root(dict(os.environ)))), images, image).tree
    name, text = machine_recipe(image, tree, args.system, args.kernel, args.archive)
    args.kernel = None
    path = Path(args.out) / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
        path.with_suffix(".lock").unlink(missing_ok=True)
    words = [sys.executable, "-m", "mkroot", "build", str(path), "-o", args.out]
    words += ["--mirror", args.mirror] if args.mirror else []
    if done := subprocess.run(words, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(done)  # it has told why
    return str(path)


def _loaded(path: Path) -> str:
    """Put the image of an archive or a layout into the image store; return how it is found there."""
    import os
    import re

    from mkroot.oci.loading import load
    from mkroot.oci.reference import Reference
    from mkroot.oci.store import ImageStore
    from mkroot.store.store import Store, default_root

    images = ImageStore(Store(default_root(dict(os.environ))))
    found = load(images, path)[0]
    name = found.reference
    if not name:  # nobody has named it: it is called like its file
        name = (re.sub(r"[^a-z0-9]+", "-", path.name.partition(".")[0].lower()).strip("-") or "image") + ":latest"
        images.tag(images.find(found.digest), Reference.parse(name))
    sys.stderr.write(f"loaded {name}\n")
    return name


def _of_file(args: argparse.Namespace) -> tuple[Machine, Media, int]:
    """Return machine and media of an image, or of a kernel alone."""
    from mkroot.boot.machine import machine
    from mkroot.vm.guest import Disk, disk_of, kind_of
    from mkroot.vm.host import ARCHITECTURES
    from mkroot.vm.media import Media

    arm = ARCHITECTURES.get(platform.machine()) == "arm64" if not args.arch else args.arch[0] == "arm64"
    found = machine(args.machine or ("aarch64-virt" if arm else "q35"))
    if args.system is None:
        if not args.kernel:
            raise UsageError("missing: RECIPE|DISK|ISO, or `--kernel`", hint="`mkroot boot --help` shows the options")
        return found, Media(kind="bootfs"), MEMORY
    path = Path(args.system)
    if kind_of(path) != "iso":
        return found, Media(kind="disk.raw", disk=disk_of(path)), MEMORY
    if args.medium == "usb":
        return found, Media(kind="usb", usb=Disk(path, "raw")), MEMORY
    return found, Media(kind="iso", cdrom=path), MEMORY


def _direct(args: argparse.Namespace) -> Direct:
    from mkroot.vm.guest import Direct

    initramfs = Path(args.initrd) if args.initrd else None
    return Direct(kernel=Path(args.kernel), initramfs=initramfs, cmdline=args.append or "console=ttyS0")


def forward(text: str) -> Forward:
    """Return a port forward from `HOST:GUEST`; raises UsageError."""
    from mkroot.vm.guest import Forward

    host, colon, guest = text.partition(":")
    if not colon or not all(p.isascii() and p.isdigit() and 0 < int(p) < 65536 for p in (host, guest)):
        raise UsageError(f"`--port {text}`: expected two ports such as `2222:22`")
    return Forward(int(host), int(guest))
