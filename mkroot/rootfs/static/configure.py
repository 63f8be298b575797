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

    origins: for each path written or removed, what it stands for. not_run: sorted. notes: what the user should know.
    """

    origins: dict[str, str]
    not_run: tuple[NotRun, ...]
    notes: tuple[str, ...]


def configure_static(tree: Tree, packages: Sequence[Layer], *, epoch: int) -> StaticReport:
    """Make in memory what matters of the packages' configuration; no script runs.

    packages: the layers of the installed packages, with their control files. epoch: seconds, for dates in shadow.
    Serves any set of packages: what is not in it is left out.
    """
    recorder = Recorder(tree)
    names = {layer.name for layer in packages}
    make_skeleton(recorder)
    postinst = next((p.control.get("postinst", b"") for p in packages if p.name == "base-passwd"), b"")
    accounts = make_accounts(recorder, epoch, subordinate=b"etc/subuid" in postinst)
    make_base_files(recorder, names, accounts)
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
    if "dpkg" in names:
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
