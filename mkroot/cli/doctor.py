"""`mkroot doctor`: tell what this host can do, what it cannot, and what to install."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mkroot.rootfs.identity import Identity

OK, LACK, BAD = "ok", "lack", "fault"  # as it should be; something optional is missing; builds cannot work so
ROOM = 1 << 30  # bytes that a first build of a small root may take
TOOLS = (  # tool, Debian package, what it is for
    ("sqfstar", "squashfs-tools", "output squashfs"),
    ("mkfs.erofs", "erofs-utils", "output erofs"),
    ("mke2fs", "e2fsprogs", "output ext4"),
    ("debugfs", "e2fsprogs", "output ext4"),
    ("mcopy", "mtools", "outputs bootfs, disk.raw, disk.qcow2 and iso"),
    ("qemu-img", "qemu-utils", "output disk.qcow2"),
    ("skopeo", "skopeo", "optional: copies images to other tools"),
    ("podman", "podman", "optional: runs images"),
    ("qemu-system-x86_64", "qemu-system-x86", "optional: boots disks"),
)


class Fact:
    """One line of the report. install: Debian packages that would help."""

    def __init__(
        self, part: str, name: str, state: str, text: str, *, hint: str = "", install: tuple[str, ...] = ()
    ) -> None:
        self.part, self.name, self.state, self.text = part, name, state, text
        self.hint, self.install = hint, install


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="tell what this host can do, and what to install",
        description="Tell what mkroot can and cannot do on this host, why, and what to install or enable.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at the host; 0, or 1 where an ordinary build would fail."""
    from mkroot.rootfs.identity import assume

    user = os.geteuid()
    identity = assume()
    facts = [*_python(), *_identity(identity, user), *_architectures(), *_store(identity), *_mirrors(), *_keys()]
    facts += _tools()
    packages = tuple(dict.fromkeys(p for fact in facts if fact.state != OK for p in fact.install))
    if args.json:
        _print_json(facts, identity, packages)
    else:
        _tell(facts, packages)
    return 1 if any(fact.state == BAD for fact in facts) else 0


def _print_json(facts: list[Fact], identity: Identity, packages: tuple[str, ...]) -> None:
    from mkroot.cli.terminal import print_json

    rows = [
        {"part": f.part, "name": f.name, "state": f.state, "text": f.text, "hint": f.hint, "install": list(f.install)}
        for f in facts
    ]
    good = not any(f.state == BAD for f in facts)
    print_json({"ok": good, "identity": identity.kind, "facts": rows, "install": list(packages)})


def _tell(facts: list[Fact], packages: tuple[str, ...]) -> None:
    from mkroot.cli.terminal import BOLD, RED, RESET, YELLOW, coloured

    colours = {OK: "", LACK: YELLOW, BAD: RED} if coloured(sys.stdout) else {}
    part = ""
    for fact in facts:
        if fact.part != part:
            part = fact.part
            sys.stdout.write(f"{BOLD}{part}{RESET}\n" if colours else f"{part}\n")
        colour = colours.get(fact.state, "")
        state = f"{colour}{fact.state:<5}{RESET}" if colour else f"{fact.state:<5}"
        sys.stdout.write(f"  {state}  {fact.name}: {fact.text}\n")
        if fact.hint:
            sys.stdout.write(f"         hint: {fact.hint}\n")
    if packages:
        sys.stdout.write(f"to install: apt-get install --no-install-recommends {' '.join(packages)}\n")


def _python() -> list[Fact]:
    import platform

    import mkroot

    version = platform.python_version()
    return [
        Fact("program", "mkroot", OK, mkroot.__version__),
        Fact("program", "python", OK, f"{version} ({sys.executable})"),
        Fact("program", "host", OK, f"{_distribution()}, Linux {platform.release()}, {platform.machine()}"),
    ]


def _distribution() -> str:
    import platform

    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown distribution")
    except OSError:
        return "unknown distribution"


def _identity(identity: Identity, user: int) -> list[Fact]:
    part = "rights"
    told = {
        "root": "root: maintainer scripts run, every owner can be set",
        "mapped": "a user namespace with subordinate ids: maintainer scripts run, every owner can be set",
        "single": "a user namespace with one id: maintainer scripts run as far as they need no other owner; "
        "owners are right in archives and images, not in the output `dir`",
        "none": "no namespaces: only `configure: static` and `configure: none` work",
    }
    state = {"root": OK, "mapped": OK, "single": LACK}.get(identity.kind, BAD)
    install = ("uidmap",) if "installed" in identity.reason else ()
    text = told[identity.kind] + (f" ({identity.reason})" if identity.reason else "")
    facts = [Fact(part, f"user {user}", state, text, hint=identity.hint, install=install)]
    if identity.kind == "root":
        from mkroot.rootfs.identity import find_tool

        missing = not (find_tool("newuidmap") and find_tool("newgidmap"))
        text = "missing; ordinary users get one id only" if missing else "found, for ordinary users"
        facts.append(Fact(part, "newuidmap", LACK if missing else OK, text, install=("uidmap",)))
    return facts


def _architectures() -> list[Fact]:
    from mkroot.rootfs import foreign

    part = "scripts"
    facts, hints = [], set()
    for name, way in foreign.ways(foreign.USUAL).items():
        match way:
            case foreign.Native():
                facts.append(Fact(part, name, OK, "the processor runs them"))
            case foreign.Registered(interpreter):
                facts.append(Fact(part, name, OK, f"by {interpreter or 'an emulator'}, which the host registered"))
            case foreign.Own(interpreter):
                facts.append(Fact(part, name, OK, f"by {interpreter}, registered in the sandbox alone"))
            case foreign.Missing(why, hint, install):
                more = hint if hint not in hints else ""
                facts.append(Fact(part, name, LACK, f"none run, for {why}", hint=more, install=install))
                hints.add(hint)
    return facts


def _store(identity: Identity) -> list[Fact]:
    import tempfile
    from pathlib import Path

    from mkroot.cli.terminal import amount
    from mkroot.errors import MkrootError
    from mkroot.store.store import Store, default_root

    part = "store"
    root = default_root(dict(os.environ))
    try:
        store = Store(root)
        with tempfile.TemporaryDirectory(dir=store.root / "tmp", prefix="doctor.") as folder:
            overlay = _overlay(identity, Path(folder))
    except (MkrootError, OSError) as e:
        what = e.what if isinstance(e, MkrootError) else f"{e.strerror or e}"
        return [Fact(part, str(root), BAD, what, hint="set MKROOT_STORE to a writable folder")]
    s = os.statvfs(root)
    free = s.f_bavail * s.f_frsize
    text = f"writable, {amount(free)} free"
    hint = "a first build takes up to 1 GiB; `mkroot cache prune` makes room" if free < ROOM else ""
    return [Fact(part, str(root), LACK if free < ROOM else OK, text, hint=hint), overlay]


def _overlay(identity: Identity, at: Path) -> Fact:
    from mkroot.rootfs.union import mount_union, unmount

    if not identity.can_mount:
        return Fact("store", "overlayfs", LACK, "not tried: nothing can be mounted")
    (at / "below").mkdir()
    union = mount_union(at / "root", [at / "below"], at / "top", at / "work", namespaced=identity.namespaced)
    unmount(union)
    if not union.mounted:
        return Fact("store", "overlayfs", LACK, f"{union.why_not}; trees are copied instead: same bytes, slower")
    if union.in_memory:
        return Fact("store", "overlayfs", LACK, "the store's file system cannot hold a top; it is kept in memory")
    return Fact("store", "overlayfs", OK, "mounts on the store's file system")


def _mirrors() -> list[Fact]:
    from mkroot.archive import config
    from mkroot.archive.mirror import mirror
    from mkroot.errors import MkrootError

    part = "mirrors"
    try:
        settings = config.load(os.environ)
    except MkrootError as e:
        return [Fact(part, "configuration", BAD, str(e))]
    facts = []
    if settings.path:
        facts.append(Fact(part, "configuration", OK, settings.path))
    for distro in ("debian", "ubuntu"):
        try:
            found = mirror(distro, "amd64", config=settings, environ=os.environ)
            more = f", security {found.security}" if found.security is not None else ""
            facts.append(Fact(part, distro, OK, f"{found.archive}{more} (from {found.origin})"))
        except MkrootError as e:
            facts.append(Fact(part, distro, LACK, e.what, hint=e.hint or "", install=("python-apt-common",)))
    return facts


def _keys() -> list[Fact]:
    from mkroot.archive.keyring import shipped
    from mkroot.errors import MkrootError

    facts = []
    for distro in ("debian", "ubuntu"):
        try:
            keys = shipped(distro).certificates
            facts.append(Fact("keys", distro, OK, f"{len(keys)} archive keys"))
        except (MkrootError, ImportError) as e:
            facts.append(Fact("keys", distro, BAD, str(e)))
    return facts


def _tools() -> list[Fact]:
    from mkroot.artifact.tools import HostTools
    from mkroot.errors import ArtifactError

    tools = HostTools()
    facts = []
    for name, package, use in TOOLS:
        try:
            facts.append(Fact("tools", name, OK, f"{tools.find(name)} ({use})"))
        except ArtifactError:
            optional = use.startswith("optional")
            install = () if optional else (package,)
            facts.append(Fact("tools", name, LACK, f"missing ({use})", hint=f"package {package}", install=install))
    return facts
