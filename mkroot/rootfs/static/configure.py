"""Configures a root without running a script, and says which scripts were not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.static.alternatives import write_alternatives
from mkroot.rootfs.static.base import make_accounts, make_base_files, make_skeleton, make_timezone
from mkroot.rootfs.static.certificates import write_certificates
from mkroot.rootfs.static.ldcache import write_cache
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import Layer
from mkroot.store.unpack import control_fields

FORMAT = "1"  # of what static configuration makes of the same packages; part of the key of what it wrote
SCRIPTS = ("config", "preinst", "postinst")  # what an installation would run; prerm and postrm it would not
DATABASE = "var/lib/dpkg"
STATUS = f"{DATABASE}/status.d"
INSTEAD = {  # package: what mkroot makes in place of its scripts
    "base-files": "folders, links and the files of /usr/share/base-files",
    "base-passwd": "passwd, group, shadow and gshadow",
    "libc-bin": "ld.so.cache and nsswitch.conf",
    "tzdata": "/etc/localtime",
    "ca-certificates": "the bundle and links in /etc/ssl/certs",
    "passwd": "shadow and gshadow",
}


class NotRun(msgspec.Struct, frozen=True, order=True):
    """A maintainer script that was not run. instead: what mkroot made in its place, "" for nothing."""

    package: str
    script: str
    instead: str = ""


class StaticReport(msgspec.Struct, frozen=True):
    """What static configuration did.

    origins: for each path written or removed, what it stands for. scripts: those not run, sorted; not_run: the same in
    words. notes: what the user should know besides.
    """

    origins: dict[str, str]
    scripts: tuple[NotRun, ...]
    notes: tuple[str, ...]

    @property
    def not_run(self) -> tuple[str, ...]:
        """A line for each script that was not run, with what mkroot made instead."""
        return tuple(
            f"{s.package}: {s.script} not run" + (f"; made instead: {s.instead}" if s.instead else "")
            for s in self.scripts
        )


def configure_static(tree: Tree, packages: Sequence[Layer], *, epoch: int | None = None) -> StaticReport:
    """Make in memory what matters of the packages' configuration; no script runs.

    packages: the layers of the installed packages, with their control files. epoch: seconds, for dates
    in shadow; None takes the newest package's.
    Serves any set of packages: what is not in it is left out.
    """
    recorder = Recorder(tree)
    if epoch is None:
        epoch = max((layer.date for layer in packages), default=0)
    scripts = {p.name: p.control.get("postinst", b"").decode("utf-8", "replace") for p in packages}
    make_skeleton(recorder)
    accounts = make_accounts(recorder, epoch, subordinate="etc/subuid" in scripts.get("base-passwd", ""))
    make_base_files(recorder, scripts.get("base-files", ""), accounts)
    make_timezone(recorder)
    with recorder.at("static: ca-certificates"):
        write_certificates(recorder)
    unknown = write_alternatives(recorder, packages)
    with recorder.at("static: ldconfig"):
        write_cache(recorder)
    _status(recorder, packages)
    for package in sorted(unknown):
        for call in unknown[package]:
            recorder.note(f"{package}: the alternative `{call}` is not made, as only a shell could read it")
    if "dpkg" in scripts:
        recorder.note("dpkg is in the image, and with `configure: static` it knows of no package")
    return StaticReport(recorder.origins, tuple(_not_run(packages, recorder)), tuple(recorder.notes))


def _not_run(packages: Iterable[Layer], recorder: Recorder) -> list[NotRun]:
    alternatives = {o.removeprefix("static: alternative of ") for o in recorder.origins.values()}
    found = []
    for layer in packages:
        instead = INSTEAD.get(layer.name, "its alternatives" if layer.name in alternatives else "")
        found += [
            NotRun(layer.name, kind, instead if kind == "postinst" else "") for kind in SCRIPTS if kind in layer.control
        ]
    return sorted(set(found))


def _status(recorder: Recorder, packages: Sequence[Layer]) -> None:
    """Replace dpkg's database by one file a package below STATUS, the form of distroless images that scanners read."""
    tree = recorder.tree
    with recorder.at("static: dpkg's database becomes status.d"):
        for name in tree.children(DATABASE):
            recorder.remove(f"{DATABASE}/{name}")
        taken: set[str] = set()
        for layer in sorted(packages, key=lambda p: (p.name, p.key)):
            control = layer.control["control"]
            fields = control_fields(control)
            name = fields["package"]
            if name in taken:  # the same package for a further architecture
                name = f"{name}:{fields['architecture']}"
            taken.add(name)
            with recorder.at(f"package: {fields['package']}"):
                recorder.write(f"{STATUS}/{name}", control.rstrip(b"\n") + b"\n", 0o644, 0, 0)
                if "md5sums" in layer.control:
                    recorder.write(f"{STATUS}/{name}.md5sums", layer.control["md5sums"], 0o644, 0, 0)
