"""A program that takes QEMU's command line and does what a test wants of a guest."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HEAD = f"""#!{sys.executable}
import base64, gzip, os, re, signal, sys, time
line = sys.argv
def value(option, start=""):
    return next((w for o, w in zip(line, line[1:]) if o == option and w.startswith(start)), "")
console = value("-chardev", "file,id=console,path=").partition("path=")[2]
if not console:
    console = value("-chardev", "stdio").partition("logfile=")[2]
port = value("-chardev", "file,id=verdict,path=").partition("path=")[2]
kvm = value("-accel") == "kvm"
found = re.search(r"mkroot\\.check=(\\S+)", value("-append"))
script = gzip.decompress(base64.b64decode(found[1])).decode() if found else ""
found = re.search(r"mkroot\\.check=(\\S+)", value("-smbios"))
script = base64.b64decode(found[1]).decode() if found else script
nonce = re.search(r"nonce=(\\w+)", script)[1] if script else ""
def say(text):
    with open(console, "a") as f:
        f.write(text)
def told(*statuses):
    rows = ",".join('{{"status":%d,"from":1,"to":2,"out":"eA=="}}' % s for s in statuses)
    with open(port, "a") as f:
        f.write("mkroot-check " + nonce + " begins\\r\\n")
        f.write("mkroot-verdict " + nonce + ' {{"state":"","ready":0.02,"uptime":0.02,'
                '"commands":[' + rows + '],"memory":"","boot":"","mounts":"","analyze":"","failed":""}}\\r\\n')
open(console, "w").close()
open(port, "w").close()
"""


def fake(folder: Path, body: str, name: str = "qemu-system-x86_64") -> Path:
    """Write a fake emulator into a new folder and return the folder, for PATH. body: Python; see `HEAD`."""
    folder.mkdir()
    program = folder / name
    program.write_text(HEAD + body)
    program.chmod(0o755)
    return folder


def running(folder: Path) -> list[int]:
    """Return the processes that were started from a folder's programs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(w.startswith(os.fsencode(folder) + b"/") for w in words[:2]):
                found.append(int(entry.name))
    return found
