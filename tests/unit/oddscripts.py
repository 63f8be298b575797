"""Scripts that are odd, each with a change of what it reads; and a small root in which they run as dpkg runs them."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from mkroot.rootfs.capture import COARSE
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.memo import Memo
from mkroot.rootfs.sandbox import Sandbox
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.union import mount_union, unmount
from mkroot.rootfs.upper import read_upper
from mkroot.store.store import Store

LONG_AGO = 1_600_000_000
EPOCH = 1_700_000_000
# What stands in the root before each script, beside the tools.
FILES = {"etc/in": "one\n", "etc/other": "two\n", "etc/in.d/a": "a\n", "etc/in.d/b": "b\n", "var/log/all.log": "line\n"}

KNOWN, RAN = "known", "ran"
# name: (script, shell commands that change the root, what the same root gives, what the changed root gives)
CASES: dict[str, tuple[str, str, str, str]] = {
    "reads a file": ("cat /etc/in > /etc/out", "echo three > etc/in", KNOWN, RAN),
    "reads a file that something else changed beside": ("cat /etc/in > /etc/out", "echo x > etc/other", KNOWN, KNOWN),
    "asks for a file that is not there": ("[ -e /etc/no ] && echo yes > /etc/out; :", "echo > etc/no", KNOWN, RAN),
    "asks in a folder that is not there": ("[ -e /opt/x/y ] && echo yes > /etc/out; :", "mkdir -p opt/x; > opt/x/y",
                                           KNOWN, RAN),
    "only asks for a file's size": ("[ -s /etc/in ] && echo full > /etc/out; :", ": > etc/in", KNOWN, RAN),
    "only asks who may run a file": ("[ -x /etc/in ] && echo runs > /etc/out; :", "chmod 755 etc/in", KNOWN, RAN),
    "asks for the owner": ("stat -c %u:%g /etc/in > /etc/out", "chown 33:33 etc/in", KNOWN, RAN),
    "asks for the time": ("stat -c %Y /etc/in > /etc/out", "touch -d @1500000000 etc/in", KNOWN, RAN),
    "compares times": ("[ /etc/in -nt /etc/other ] && echo newer > /etc/out; :", "touch -d @1650000000 etc/in",
                       KNOWN, RAN),
    "lists a folder": ("ls /etc/in.d > /etc/out", "echo c > etc/in.d/c", KNOWN, RAN),
    "matches names": ("echo /etc/in.d/* > /etc/out", "rm etc/in.d/b", KNOWN, RAN),
    "lists a folder in which another file changes": ("ls /etc/in.d > /etc/out", "echo z > etc/in.d/a", KNOWN, KNOWN),
    "makes a file in a folder and lists it": ("echo c > /etc/in.d/c; ls /etc/in.d > /etc/out", "echo > etc/in.d/d",
                                              KNOWN, RAN),
    "removes a file and lists the folder": ("rm /etc/in.d/a; ls /etc/in.d > /etc/out", "echo > etc/in.d/d", KNOWN, RAN),
    "reads through a link": ("cat /etc/link > /etc/out", "ln -sfn other etc/link", KNOWN, RAN),
    "reads through a folder's link": ("cat /srv/current/f > /etc/out", "ln -sfn two srv/current", KNOWN, RAN),
    "asks where a link leads": ("readlink /etc/link > /etc/out", "ln -sfn other etc/link", KNOWN, RAN),
    "writes through a link": ("echo new > /etc/link", "ln -sfn other etc/link", KNOWN, RAN),
    "reads from its folder": ("cd /etc/in.d; cat ../in a > ../out", "echo z > etc/in", KNOWN, RAN),
    "is itself another": ("cat /etc/in > /etc/out",
                          "printf '#!/bin/sh\\n: > /etc/out\\n' > var/lib/dpkg/info/odd.postinst",
                          KNOWN, RAN),
    "runs another script": ("/etc/tool", "printf '#!/bin/sh\\necho new > /etc/out\\n' > etc/tool", KNOWN, RAN),
    "sources another script": (". /etc/tool", "printf 'echo new > /etc/out\\n' > etc/tool", KNOWN, RAN),
    "runs what PATH finds first": ("tool", "mkdir -p usr/local/bin; cp etc/tool "
                                   "usr/local/bin/tool", KNOWN, RAN),
    "uses a tool that changed": ("ls /etc/in.d > /etc/out", "cp --remove-destination usr/bin/cat usr/bin/ls", KNOWN,
                                 RAN),
    "uses a library that came": ("ls /etc/in.d > /etc/out", "echo none > etc/ld.so.preload", KNOWN, RAN),
    "appends to a log": ("echo mine >> /var/log/all.log", "echo before > var/log/all.log", KNOWN, KNOWN),
    "appends to a log and reads it": ("echo mine >> /var/log/all.log; cat /var/log/all.log > /etc/out",
                                      "echo before > var/log/all.log", RAN, RAN),
    "writes a file anew": ("echo new > /etc/in", "echo three > etc/in", KNOWN, KNOWN),
    "writes a file anew whose mode is another": ("echo new > /etc/in", "chmod 600 etc/in", KNOWN, RAN),
    "changes a file in its middle": ("printf x 1<> /etc/in", "echo three > etc/in", KNOWN, RAN),
    "changes a mode": ("chmod 600 /etc/in", "echo three > etc/in", KNOWN, RAN),
    "changes a mode whatever it holds": ("chmod 600 /etc/in",
                                         "echo two > etc/in; touch -d @1600000000 etc/in", KNOWN, RAN),
    "reads what has the same size and time": ("cat /etc/in > /etc/out",
                                              "echo two > etc/in; touch -d @1600000000 etc/in",
                                              KNOWN, RAN),
    "asks for what has the same size and time": ("stat -c %s /etc/in > /etc/out",
                                                 "echo two > etc/in; touch -d @1600000000 etc/in", KNOWN, KNOWN),
    "changes an owner": ("chown 33:33 /etc/in", "chmod 600 etc/in", KNOWN, RAN),
    "changes a folder's mode": ("chmod 700 /etc/in.d", "echo > etc/in.d/c", KNOWN, RAN),
    "sets a time": ("touch -d @1400000000 /etc/in", "echo three > etc/in", KNOWN, RAN),
    "copies with all": ("cp -a /etc/in /etc/out", "chmod 640 etc/in", KNOWN, RAN),
    "removes a file": ("rm -f /etc/in", "rm etc/in", KNOWN, RAN),
    "removes a file that changed": ("rm -f /etc/in", "echo three > etc/in", KNOWN, RAN),
    "removes a folder": ("rm -r /etc/in.d", "echo > etc/in.d/c", KNOWN, RAN),
    "removes a folder and makes it again": ("rm -r /etc/in.d; mkdir /etc/in.d", "echo > etc/in.d/c", RAN, RAN),
    "puts a link in a folder's place": ("rm -r /etc/in.d; ln -s in /etc/in.d", "echo > etc/in.d/c", KNOWN, RAN),
    "moves a file": ("mv /etc/in /etc/out", "echo three > etc/in", KNOWN, RAN),
    "moves over a file": ("echo new > /etc/x; mv /etc/x /etc/in", "echo three > etc/in", KNOWN, KNOWN),
    "moves a folder": ("mv /etc/in.d /etc/out.d", "echo > etc/in.d/c", RAN, RAN),
    "gives a second name": ("ln /etc/in /etc/out", "echo three > etc/in", RAN, RAN),
    "gives a second name for a while": ("ln /etc/in /etc/x; rm /etc/x", "echo three > etc/in", KNOWN, RAN),
    "makes and removes": ("echo x > /etc/x; cat /etc/x; rm /etc/x", "echo x > etc/x", KNOWN, RAN),
    "makes folders": ("mkdir -p /opt/a/b; echo x > /opt/a/b/c", "mkdir -m 700 opt", KNOWN, RAN),
    "writes and runs a script": ("echo 'cat /etc/in > /etc/out' > /tmp/x; sh /tmp/x; rm /tmp/x", "echo z > etc/in",
                                 KNOWN, RAN),
    "reads its own and what others wrote": ("echo x > /etc/own; cat /etc/own /etc/in > /etc/out", "echo z > etc/in",
                                            KNOWN, RAN),
    "works in a pipe of processes": ("cat /etc/in | { mkdir /opt; cat > /opt/out; } ; ls /opt > /etc/out",
                                     "echo z > etc/in", KNOWN, RAN),
    "leaves a process behind": ("sleep 30 > /dev/null 2>&1 &", "", RAN, RAN),
    "makes a pipe": ("mknod /etc/pipe p", "", RAN, RAN),
    "reads /proc/mounts": ("cat /proc/mounts > /etc/out", "", RAN, RAN),
    "lists processes": ("ls /proc > /etc/out", "", RAN, RAN),
    "reads of process 1": ("cat /proc/1/comm > /etc/out", "", RAN, RAN),
    "reads of itself": ("cat /proc/self/comm > /etc/out", "", KNOWN, KNOWN),
    "writes to devices": ("echo x > /dev/null; cat /dev/null", "", KNOWN, KNOWN),
    "makes something in /dev": ("> /dev/shm/x", "", RAN, RAN),
    "makes a private key": ("echo '-----BEGIN PRIVATE KEY-----' > /etc/key", "", RAN, RAN),
    "makes the machine's identity": ("echo 0123456789abcdef > /etc/machine-id", "", RAN, RAN),
    "writes the date of the build": ("echo $SOURCE_DATE_EPOCH > /etc/out", "", KNOWN, RAN),
    "writes its environment": ("env > /etc/out", "", KNOWN, RAN),
    "does nothing with the date of the build": ("cat /etc/in > /etc/out", "", KNOWN, KNOWN),
    "reads a file that is too large": ("cat /etc/large > /etc/out", "", RAN, RAN),
    "makes a file where groups are handed down": ("echo new > /etc/in.d/c", "chgrp 33 etc/in.d; chmod 2755 etc/in.d",
                                                  KNOWN, RAN),
    "runs a program by its descriptor": ("exec 5< /usr/bin/true; /proc/self/fd/5", "", RAN, RAN),
    "leaves its root": ("mkdir /opt; chroot / true", "", RAN, RAN),
}  # fmt: skip
DATED = ("writes the date of the build", "writes its environment", "does nothing with the date of the build")


class Lab:
    """A place for small roots as one identity. tools: a folder with a shell and tools, never written to."""

    def __init__(self, me: Identity, base: Path, tools: Path) -> None:
        self.me, self.base, self.tools = me, base, tools
        self.store = Store(base / f"store-{me.tag}")
        self._count = 0
        for path in tools.rglob("*"):
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)

    def run(self, script: str, change: str, *, memo: bool, epoch: int = EPOCH) -> tuple[str, list[str], list[str]]:
        """Run a script over a fresh root; return whether it ran, what the top holds then, and what was told."""
        self._count += 1
        work = self.base / f"lab-{self.me.tag}-{os.getpid()}-{self._count}"
        upper = work / "upper"
        self._fill(upper, script, change)
        start = time.clock_gettime(COARSE)
        known = Memo(self.store, self.me.kind, start)
        tree = Tree(lambda layer, entry: b"")
        union = mount_union(work / "at", [self.tools], upper, work / "work", namespaced=self.me.namespaced)
        assert union.mounted, union.why_not
        watcher = known.watch if memo else None
        try:
            box = Sandbox(union.at, identity=self.me, epoch=epoch, watcher=watcher)
            with known.at(union.at, upper, tree), box:
                done = box.run(
                    ["/var/lib/dpkg/info/odd.postinst", "configure", ""],
                    environment={"DPKG_MAINTSCRIPT_PACKAGE": "odd", "DPKG_MAINTSCRIPT_NAME": "postinst"},
                )
                if memo:
                    known.settle(done.left)
                assert not done.fault, done.fault
                told = list(known.told())
            known.save()
            found = _shown(upper, int(start))
        finally:
            unmount(union)
            shutil.rmtree(work, ignore_errors=True)
        return (KNOWN if known.known else RAN), found, told

    def _fill(self, upper: Path, script: str, change: str) -> None:
        files = {**FILES, "var/lib/dpkg/info/odd.postinst": f"#!/bin/sh\n{script}\n"}
        files |= {"srv/one/f": "f one\n", "srv/two/f": "f two\n"}
        files["etc/tool"] = "#!/bin/sh\ncat /etc/in > /etc/out\n"
        files["usr/sbin/tool"] = "#!/bin/sh\necho old > /etc/out\n"
        for name, text in files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name.endswith(("postinst", "tool")) else 0o644)
        os.symlink("in", upper / "etc/link")
        os.symlink("one", upper / "srv/current")
        if "large" in script:
            with open(upper / "etc/large", "wb") as f:
                f.truncate((64 << 20) + 1)
        for path in [*upper.rglob("*")]:
            os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
        if change:
            here = os.getcwd()
            os.chdir(upper)
            (upper / "usr/bin").mkdir(exist_ok=True)
            if "usr/bin/cat" in change:
                shutil.copyfile(self.tools / "usr/bin/cat", upper / "usr/bin/ls")
                os.chmod(upper / "usr/bin/ls", 0o755)
            else:
                assert os.system(change) == 0, change
            os.chdir(here)
        for path in upper.rglob("*"):
            if path.lstat().st_mtime > EPOCH:  # of the change, which is no part of the script's time
                os.utime(path, (LONG_AGO + 9999, LONG_AGO + 9999), follow_symlinks=False)
        for path in [upper, *upper.rglob("*")]:
            if path.is_dir() and not path.is_symlink() and path.stat().st_mode & 0o777 == 0o755:
                os.chmod(path, 0o755)


def _shown(upper: Path, start: int) -> list[str]:
    changes = read_upper(upper)
    lines = [f"- {path}" for path in changes.removed] + [f"opaque {path}" for path in changes.opaque]
    for e in changes.entries:
        if e.path.startswith(("dev", "proc")) or e.path in ("usr/sbin/policy-rc.d",):
            continue
        content = b""
        if e.kind == "f":
            with open(changes.open(e), "rb") as f:
                content = f.read()
        mtime = "now" if e.mtime >= start else str(e.mtime) if e.kind != "d" else "folder"
        digest = hashlib.sha256(content).hexdigest()[:12]
        lines.append(f"{e.kind} {e.mode:o} {e.uid}:{e.gid} {mtime} {e.path} {e.link} {digest} {dict(e.xattrs)}")
    return sorted(lines)


def outcomes(me: Identity, base: Path, tools: Path, names: list[str]) -> dict[str, Any]:
    """Run each case on the same and on the changed root, with what is known and without; return what came of it."""
    lab = Lab(me, base, tools)
    found: dict[str, Any] = {}
    for name in names:
        script, change, _, _ = CASES[name]
        epoch = EPOCH + (86400 if name in DATED else 0)
        lab.run(script, "", memo=True)
        same = lab.run(script, "", memo=True)
        plain = lab.run(script, "", memo=False)
        # What a change leads to is compared before the change's own run is known.
        changed = lab.run(script, change, memo=True, epoch=epoch)
        bare = lab.run(script, change, memo=False, epoch=epoch)
        after = lab.run(script, change, memo=True, epoch=epoch)
        found[name] = {
            "same": same[0], "changed": changed[0], "told": [same[2], changed[2]],
            "differs": [[a for a in x if a not in y] + ["~ " + b for b in y if b not in x]
                        for x, y in ((same[1], plain[1]), (changed[1], bare[1]), (after[1], bare[1]))],
        }  # fmt: skip
    return found
