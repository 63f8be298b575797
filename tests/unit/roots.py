"""Roots in memory, made of a few lines, as a layer in a store of the test's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mkroot.rootfs.tree import Tree
from mkroot.store.layer import FrameBuilder, Layer, LayerStore
from mkroot.store.store import Store
from mkroot.tar.entry import DIR, FILE, SYMLINK, Entry, parent

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\ndaemon:x:1:\nadm:x:4:\nsudo:x:27:\nwww-data:x:33:\nshadow:x:42:\nusers:x:100:\nnogroup:x:65534:\n"
DAY = 20775
EPOCH = DAY * 86400 + 4000


def debian(**more: str | bytes) -> dict[str, str | bytes]:
    """What of a Debian 13 minbase matters here; a value that begins with `-> ` is a link, one of None a folder."""
    users = [line.partition(":")[0] for line in PASSWD.splitlines()]
    groups = [line.partition(":")[0] for line in GROUP.splitlines()]
    return {
        "bin": "-> usr/bin",
        "usr/bin/bash": "x!",
        "usr/bin/sh": "-> bash",
        "usr/bin/dpkg": "x!",
        "usr/sbin/nologin": "x!",
        "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\n',
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "etc/shadow": "".join(f"{u}:*:20000:0:99999:7:::\n" for u in users),
        "etc/gshadow": "".join(f"{g}:*::\n" for g in groups),
        "etc/subuid": "",
        "etc/subgid": "",
        "etc/login.defs": "# limits\nUSERGROUPS_ENAB yes\nHOME_MODE\t0700\nUID_MIN 1000\nUID_MAX 60000\n"
        "SUB_UID_COUNT 65536\nPASS_MAX_DAYS\t99999\nPASS_MIN_DAYS 0\nPASS_WARN_AGE 7\n",
        "etc/shells": "/bin/sh\n/bin/bash\n",
        "etc/skel/.profile": "# profile\n",
        "usr/lib/locale/C.utf8/LC_CTYPE": "x",
        "usr/share/zoneinfo/Etc/UTC": "TZif",
        "usr/share/zoneinfo/Europe/Paris": "TZif",
        **more,
    }


def systemd(**more: str) -> dict[str, str | bytes]:
    """A Debian 13 with systemd and a few units."""
    units = {
        "web.service": "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=www.service\n",
        "net.service": "[Install]\nWantedBy=multi-user.target\nAlso=net.socket\nAlso=wait.service\n",
        "net.socket": "[Install]\nWantedBy=sockets.target\n",
        "wait.service": "[Install]\nWantedBy=network-online.target\n",
        "getty@.service": "[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\nAlias=autovt@.service\n",
        "only@.service": "[Install]\nWantedBy=multi-user.target\n",
        "static.service": "[Service]\nExecStart=/bin/true\n",
        "tmp.mount": "[Mount]\nWhat=tmpfs\n",
        "needed.service": "[Install]\nRequiredBy=web.service\nUpheldBy=%p-x.target\n",
        **more,
    }
    files: dict[str, str | bytes] = {f"usr/lib/systemd/system/{n}": text for n, text in units.items()}
    return debian(**{"usr/lib/systemd/systemd": "x!", "usr/lib/x/systemd/libsystemd-shared-257.so": "x", **files})


def tree_of(folder: Path, files: dict[str, str | bytes]) -> Tree:
    """A tree over one stored layer; content `x!` is a program, `-> y` a link, a path that ends in / a folder."""
    builder = FrameBuilder()
    chunks = []
    folders = {p.rstrip("/") for p in files if p.endswith("/")}
    for path in files:
        up = parent(path.rstrip("/"))
        while up:
            folders.add(up)
            up = parent(up)
    for path in sorted(folders):
        chunks.append(builder.add(Entry(path, DIR, 0o1777 if path == "tmp" else 0o755), b""))
    for path, text in files.items():
        if path.endswith("/"):
            continue
        content = text if isinstance(text, bytes) else text.encode()
        if content.startswith(b"-> "):
            chunks.append(builder.add(Entry(path, SYMLINK, 0o777, link=content[3:].decode()), b""))
        else:
            mode = 0o755 if content == b"x!" else 0o640 if path in ("etc/shadow", "etc/gshadow") else 0o644
            chunks.append(
                builder.add(Entry(path, FILE, mode, 0, 42 if mode == 0o640 else 0, size=len(content)), content)
            )
    key = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    layer = Layer(key=key, name="root", entries=tuple(builder.entries))
    layers = LayerStore(Store(folder / "store"))
    layers.save(layer, iter([c for c in chunks if c]))
    tree = Tree(layers.read)
    tree.apply(layer)
    return tree


def changes(before: Tree, after: Tree) -> list[str]:
    """What differs between two trees, a line each."""
    lines = []
    for path in sorted(before.nodes.keys() | after.nodes.keys()):
        node = after.nodes.get(path)
        if node is None:
            lines.append(f"- {path}")
        elif node != before.nodes.get(path):
            e = node.entry
            tail = f" -> {e.link}" if e.kind == SYMLINK else ""
            lines.append(f"{e.kind} {e.mode:04o} {e.uid}:{e.gid} {path}{tail}")
    return lines


def materialise(tree: Tree, root: Path) -> None:
    """Write a tree to disk, without owners."""
    for path in sorted(tree.nodes):
        entry, place = tree.nodes[path].entry, root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "d":
            place.mkdir(exist_ok=True)
        elif entry.kind == "l":
            place.symlink_to(entry.link)
        else:
            place.write_bytes(tree.read(path))
            place.chmod(entry.mode)
