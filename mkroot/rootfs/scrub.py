"""Takes identities, secrets and traces of the build out of a root, and has the first boot make what is needed.

Beyond what mmdebstrap 1.3.5 clears at its end, the differences are the rows of REMOVED that are marked `identity`.
"""

from __future__ import annotations

import re

import msgspec

from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.units import Units
from mkroot.tar.entry import DIR, FILE, HARDLINK, SYMLINK

ORIGIN = "mkroot: scrub"


class Row(msgspec.Struct, frozen=True):
    """One kind of thing that is removed.

    glob: paths; `*` within a name, `**` across folders. why: what it is.
    identity: whether every copy of the image would share a secret or an identity by it; else a trace of the build.
    """

    glob: str
    why: str
    identity: bool = False


REMOVED = (
    Row("etc/ssh/ssh_host_*_key", "SSH host key; made at first boot", True),
    Row("etc/ssh/ssh_host_*_key.pub", "SSH host key; made at first boot", True),
    Row("etc/ssl/private/ssl-cert-snakeoil.key", "key of the snakeoil certificate; made at first boot", True),
    Row("etc/ssl/certs/ssl-cert-snakeoil.pem", "snakeoil certificate; made at first boot", True),
    Row("var/lib/dbus/machine-id", "machine id; made at boot from /etc/machine-id", True),
    Row("var/lib/systemd/random-seed", "random seed", True),
    Row("var/lib/systemd/credential.secret", "host key of systemd's credentials", True),
    Row("var/lib/urandom/random-seed", "random seed", True),
    Row("boot/**/loader/random-seed", "random seed of the boot loader", True),
    Row("efi/loader/random-seed", "random seed of the boot loader", True),
    Row("var/lib/private/systemd/**", "state of systemd's services", True),
    Row("var/lib/NetworkManager/secret_key", "key of NetworkManager's stable ids", True),
    Row("etc/iscsi/initiatorname.iscsi", "iSCSI initiator name; made at first start", True),
    Row("etc/nvme/hostid", "NVMe host id", True),
    Row("etc/nvme/hostnqn", "NVMe host name", True),
    Row("var/log/journal/**", "journal", True),
    Row("var/log/dpkg.log", "log with times"),
    Row("var/log/alternatives.log", "log with times"),
    Row("var/log/bootstrap.log", "log with times"),
    Row("var/log/apt/history.log", "log with times"),
    Row("var/log/apt/term.log", "log with times"),
    Row("var/log/apt/eipp.log.xz", "log"),
    Row("var/cache/ldconfig/aux-cache", "cache with inode numbers and times"),
    Row("var/cache/apt/*.bin", "cache of apt"),
    Row("var/cache/apt/archives/*.deb", "downloaded packages"),
    Row("var/cache/apt/archives/partial/*", "downloaded packages"),
    Row("var/lib/apt/lists/auxfiles/**", "package lists"),
    Row("var/lib/apt/lists/auxfiles", "package lists"),
    Row("var/lib/apt/lists/partial/*", "package lists"),
    Row("tmp/**", "temporary files"),
)
"""What is removed, besides /run (all but /run/lock) and the package lists."""

KEYGEN = "etc/systemd/system/mkroot-ssh-host-keys.service"
SNAKEOIL = "etc/systemd/system/mkroot-snakeoil.service"

_UNIT = """\
[Unit]
Description={description}
DefaultDependencies=no
Conflicts=shutdown.target
After=local-fs.target systemd-remount-fs.service
Before={before} shutdown.target
ConditionPathIsReadWrite=/etc
{condition}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command}

[Install]
WantedBy={target}
"""
_SSH = "ssh.service ssh.socket sshd.service"


def scrub(tree: Tree) -> dict[str, str]:
    """Remove from a tree what no image may carry, in memory; return the origin of each path removed or written.

    machine-id becomes an empty file where systemd or the file itself is there (machine-id(5): it is then made at boot,
    without the presets of a first boot, which would start again what the recipe disabled).
    """
    recorder = Recorder(tree)
    rows = [(re.compile(_regex(row.glob)), row) for row in REMOVED]
    tops = {row.glob.partition("/")[0] for row in REMOVED}
    had_keys = False
    for path in sorted(tree.nodes):
        if path.partition("/")[0] not in tops or path not in tree.nodes:
            continue
        row = next((row for regex, row in rows if regex.fullmatch(path)), None)
        if row is None:
            continue
        had_keys = had_keys or "snakeoil" in path
        with recorder.at(f"{ORIGIN}: {row.why}"):
            recorder.remove(path)
    _run_and_lists(recorder)
    _snakeoil_links(recorder)
    _machine_id(recorder)
    units = Units(tree)
    if units.present:
        _first_boot_units(recorder, units, had_keys)
    return recorder.origins


def _regex(glob: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*)", glob)
    return "".join({"**/": "(?:.*/)?", "**": ".+", "*": "[^/]*"}.get(p, re.escape(p)) for p in parts)


def _run_and_lists(recorder: Recorder) -> None:
    tree = recorder.tree
    with recorder.at(f"{ORIGIN}: state of a running system"):
        for name in tree.children("run"):
            if name != "lock":  # /var/lock leads there
                recorder.remove(f"run/{name}")
    with recorder.at(f"{ORIGIN}: package lists"):
        for name in tree.children("var/lib/apt/lists"):
            if name not in ("lock", "partial"):
                recorder.remove(f"var/lib/apt/lists/{name}")


def _snakeoil_links(recorder: Recorder) -> None:
    """Remove the links by subject hash that named the snakeoil certificate."""
    if recorder.tree.exists("etc/ssl/certs/ssl-cert-snakeoil.pem"):
        return
    start = "etc/ssl/certs/"
    nodes = recorder.tree.nodes
    for path in sorted(p for p in nodes if p.startswith(start)):
        entry = nodes[path].entry
        if entry.kind == SYMLINK and entry.link.rpartition("/")[2] == "ssl-cert-snakeoil.pem":
            with recorder.at(f"{ORIGIN}: snakeoil certificate; made at first boot"):
                recorder.remove(path)


def _machine_id(recorder: Recorder) -> None:
    tree = recorder.tree
    entry = tree.get("etc/machine-id", follow=False)
    systemd = tree.exists("usr/lib/systemd/systemd")
    if entry is None and not systemd:
        return
    if entry is not None and entry.kind in (FILE, HARDLINK) and entry.size == 0 and not tree.read("etc/machine-id"):
        return
    with recorder.at(f"{ORIGIN}: machine id; made at first boot"):
        if entry is not None and entry.kind != FILE:
            recorder.remove("etc/machine-id")
        recorder.write("etc/machine-id", b"", 0o444 if entry is None else None, 0, 0)


def _first_boot_units(recorder: Recorder, units: Units, had_snakeoil: bool) -> None:
    tree = recorder.tree
    if tree.exists("usr/sbin/sshd") and tree.exists("usr/bin/ssh-keygen") and not _makes_host_keys(tree, units):
        with recorder.at(f"{ORIGIN}: makes SSH host keys at first boot"):
            _install(
                recorder, KEYGEN, "Make SSH host keys where there are none",
                "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key", "/usr/bin/ssh-keygen -A",
                _SSH, "multi-user.target",  # nothing but ssh waits for it: an RSA key takes its time
            )  # fmt: skip
    if had_snakeoil and tree.exists("usr/sbin/make-ssl-cert"):
        with recorder.at(f"{ORIGIN}: makes the snakeoil certificate at first boot"):
            _install(
                recorder, SNAKEOIL, "Make the snakeoil certificate where there is none",
                "ConditionPathExists=!/etc/ssl/private/ssl-cert-snakeoil.key",
                "/usr/sbin/make-ssl-cert generate-default-snakeoil",
                "sysinit.target", "sysinit.target",  # any server may want it
            )  # fmt: skip


def _makes_host_keys(tree: Tree, units: Units) -> bool:
    """Tell whether a unit of the distribution makes host keys whenever they are missing.

    Debian 13's sshd-keygen.service is none: it asks for ConditionFirstBoot, which an empty machine-id does not meet.
    """
    unit = units.find("sshd-keygen.service")
    if unit is None or unit.masked or not tree.exists(unit.path):
        return False
    text = tree.read(unit.path).decode("utf-8", "replace")
    return "ssh-keygen" in text and "ConditionFirstBoot" not in text


def _install(
    recorder: Recorder, path: str, description: str, condition: str, command: str, before: str, target: str
) -> None:
    name = path.rpartition("/")[2]
    text = _UNIT.format(description=description, condition=condition, command=command, before=before, target=target)
    recorder.write(path, text.encode(), 0o644, 0, 0)
    recorder.link(f"etc/systemd/system/{target}.wants/{name}", f"/{path}")


def leftovers(tree: Tree) -> list[str]:
    """Return the paths of identities that are still in a tree, sorted: none after `scrub`."""
    rows = [re.compile(_regex(row.glob)) for row in REMOVED if row.identity]
    return sorted(p for p, n in tree.nodes.items() if n.entry.kind != DIR and any(regex.fullmatch(p) for regex in rows))
