"""Configuration without scripts; where the real tool runs here, its bytes are the truth."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from mkroot.rootfs.accounts import read_accounts
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.static import configure_static
from mkroot.rootfs.static.alternatives import read_choices
from mkroot.rootfs.static.certificates import BUNDLE, CERTS, certificates, subject_hash, write_certificates
from mkroot.rootfs.static.elf import read_library
from mkroot.rootfs.static.ldcache import CACHE, Cached, libraries, render, search_path, write_cache
from mkroot.rootfs.static.sysusers import make_declared
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.users import write_accounts
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from tests.unit.layers import layer
from tests.unit.roots import DAY, EPOCH, PASSWD, changes, debian, materialise, tree_of

TOOLS = os.environ["PATH"] + ":/usr/sbin:/sbin"
X86_64, AARCH64 = 62, 183


def elf(soname: str, machine: int = X86_64, kind: int = 3) -> bytes:
    """A 64-bit shared object with one loaded segment and a dynamic section."""
    strings = b"\0" + soname.encode() + b"\0"
    base = 64 + 2 * 56
    dynamic = struct.pack("<qQqQqQqQ", 5, base + 64, 10, len(strings), 14 if soname else 21, 1 if soname else 0, 0, 0)
    data = dynamic + strings
    head = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    )
    size = base + len(data)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    section = struct.pack("<IIQQQQQQ", 2, 6, base, base, base, 64, 64, 8)
    return head + load + section + data


LIBRARIES: dict[str, str | bytes] = {
    "lib": "-> usr/lib",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/ld.so.conf.d/b.conf": "# a comment\n/usr/lib/x86_64-linux-gnu\n/lib/x86_64-linux-gnu\n",
    "etc/ld.so.conf.d/a.conf": "/usr/local/lib\n",
    "usr/local/lib/liblocal.so.1": elf("liblocal.so.1"),
    "usr/lib/x86_64-linux-gnu/liba.so.1.10": elf("liba.so.1"),
    "usr/lib/x86_64-linux-gnu/liba.so.1": "-> liba.so.1.10",
    "usr/lib/x86_64-linux-gnu/liba.so": "-> liba.so.1",
    "usr/lib/x86_64-linux-gnu/liba.so.10": elf("liba.so.10"),
    "usr/lib/x86_64-linux-gnu/libplugin.so": elf(""),
    "usr/lib/x86_64-linux-gnu/libnolink.so.2.3": elf("libnolink.so.2"),
    "usr/lib/x86_64-linux-gnu/libtext.so.9": "GROUP ( libc.so.6 )",
    "usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/liba.so.1": elf("liba.so.1"),
    "usr/lib/libdeep.so.4": elf("libdeep.so.4"),
}


def test_the_cache_is_what_ldconfig_says_of_it(tmp_path: Path) -> None:
    if shutil.which("ldconfig", path=TOOLS) is None:
        pytest.skip("no ldconfig here")
    tree = tree_of(tmp_path, LIBRARIES)
    assert write_cache(Recorder(tree)) == 8
    (tmp_path / "cache").write_bytes(tree.read(CACHE))
    argv = ["ldconfig", "-p", "-C", str(tmp_path / "cache")]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, env={"PATH": TOOLS, "LC_ALL": "C"}).stdout
    lines = [line.strip().replace("(libc6,x86-64) ", "") for line in said.splitlines()[1:] if "=>" in line]
    assert lines[:5] == [
        "libplugin.so => /usr/lib/x86_64-linux-gnu/libplugin.so",
        "libnolink.so.2 => /usr/lib/x86_64-linux-gnu/libnolink.so.2",
        "liblocal.so.1 => /usr/local/lib/liblocal.so.1",
        "libdeep.so.4 => /lib/libdeep.so.4",
        "liba.so.10 => /usr/lib/x86_64-linux-gnu/liba.so.10",
    ]
    assert [line.partition(" ")[0] + line.partition("=>")[2] for line in lines[5:]] == [
        "liba.so.1 /usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/liba.so.1",
        "liba.so.1 /usr/lib/x86_64-linux-gnu/liba.so.1",
        "liba.so /usr/lib/x86_64-linux-gnu/liba.so",
    ]
    assert tree.nodes["usr/lib/x86_64-linux-gnu/libnolink.so.2"].entry.link == "libnolink.so.2.3"


@pytest.mark.skipif(os.getuid() != 0, reason="ldconfig -r needs root")
def test_the_cache_equals_the_real_ldconfigs_byte_for_byte(tmp_path: Path) -> None:
    if shutil.which("ldconfig", path=TOOLS) is None:
        pytest.skip("no ldconfig here")
    tree = tree_of(tmp_path, LIBRARIES)
    materialise(tree, tmp_path / "root")
    subprocess.run(["ldconfig", "-r", str(tmp_path / "root")], check=True, capture_output=True, env={"PATH": TOOLS})
    real = (tmp_path / "root" / CACHE).read_bytes()
    at = real.find(b"ldconfig (")
    generator = real[at:].partition(b"\0")[0].decode()
    assert render(list(libraries(Recorder(tree))), generator) == real


def test_the_search_path_names_each_folder_once_and_needs_no_conf(tmp_path: Path) -> None:
    assert search_path(tree_of(tmp_path, LIBRARIES)) == ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/lib"]
    bare = {p: c for p, c in LIBRARIES.items() if not p.startswith("etc/")}
    assert search_path(tree_of(tmp_path / "b", bare)) == ["/lib/x86_64-linux-gnu", "/lib"]


def test_a_damaged_library_is_passed_over() -> None:
    whole = elf("libx.so.1")
    assert read_library(whole) is not None
    for cut in range(0, len(whole), 7):
        read_library(whole[:cut])
    assert read_library(elf("x", kind=2)) is None
    assert read_library(b"\x7fELF" + b"\xff" * 200) is None
    assert render([Cached("liba.so.1", "/lib/liba.so.1", 3)])[:20] == b"glibc-ld.so.cache1.1"


def certificate(folder: Path, name: str, subject: str) -> bytes:
    path = folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "9",
         "-multivalue-rdn", "-utf8", "-subj", subject, "-keyout", str(folder / "key"), "-out", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    return path.read_bytes()


SUBJECTS = {
    "Plain": "/C=DE/O=Example/CN=Root CA",
    "Spaces and (signs)": "/O=  Two   Words /CN=MiXeD Case",
    "UTF-8": "/O=Édition Ünïcode/CN=Ω",
    "Multi": "/O=B+OU=A+CN=C/CN=x",
    "Same subject": "/C=DE/O=example/CN=root  ca",
}


def test_bundle_and_links_equal_those_of_openssl_rehash(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    made = {name: certificate(tmp_path, "c", subject) for name, subject in SUBJECTS.items()}
    files: dict[str, str | bytes] = {f"usr/share/ca-certificates/m/{n}.crt": c.rstrip(b"\n") for n, c in made.items()}
    tree = tree_of(tmp_path, files)
    assert write_certificates(Recorder(tree)) == len(SUBJECTS)
    assert tree.read(BUNDLE) == b"".join(made[n].rstrip(b"\n") + b"\n" for n in sorted(made))
    assert tree.nodes[f"{CERTS}/Spaces_and_=signs=.pem"].entry.link == (
        "/usr/share/ca-certificates/m/Spaces and (signs).crt"
    )
    folder = tmp_path / "rehash"
    folder.mkdir()
    for name in tree.children(CERTS):
        if name.endswith((".pem", ".crt")):
            (folder / name).write_bytes(tree.read(f"{CERTS}/{name}"))
    subprocess.run(["openssl", "rehash", str(folder)], check=True, capture_output=True)
    theirs = {p.name: os.readlink(p) for p in folder.iterdir() if p.is_symlink()}
    ours = {n: tree.nodes[f"{CERTS}/{n}"].entry.link for n in tree.children(CERTS) if n[-2:] in (".0", ".1")}
    assert ours == theirs
    assert len({n[:8] for n in ours}) == len(SUBJECTS) - 1


def test_what_is_no_certificate_is_told(tmp_path: Path) -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    recorder = Recorder(tree_of(tmp_path, {"usr/share/ca-certificates/x.crt": broken}))
    write_certificates(recorder)
    assert recorder.notes == ["/etc/ssl/certs/x.pem holds no certificate that could be read"]
    with pytest.raises((ValueError, IndexError)):
        subject_hash(next(certificates(broken)))


POSTINST = """#!/bin/sh
# update-alternatives --install /not /a /comment 1
case "$1" in configure)
    update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\
        --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/mawk.1.gz || true
    update-alternatives --quiet --install /bin/nano editor /bin/nano 40; ldconfig
    for x in a b; do update-alternatives --install /usr/bin/$x $x /usr/bin/$x.p 5; done
esac
"""


def test_plain_calls_of_update_alternatives_are_read_and_others_told() -> None:
    found, unknown = read_choices(POSTINST, "p")
    assert [(c.link, c.name, c.path, c.priority, len(c.slaves)) for c in found] == [
        ("/usr/bin/awk", "awk", "/usr/bin/mawk", 5, 1),
        ("/bin/nano", "editor", "/bin/nano", 40, 0),
    ]
    assert unknown == ["/usr/bin/$x $x /usr/bin/$x.p 5"]


BASE_FILES = """#!/bin/sh
install_from_default() {
  cp -p "$1" "$2"
}
  install_from_default motd          /etc/motd
  install_directory opt       755 root
  install_directory var/mail 2775 mail
  install_local_dir /usr/local/bin
  ensure_file_owner_mode /var/log/wtmp root:utmp 664
"""


def distroless(tmp_path: Path, names: set[str]) -> tuple[Tree, list[str], list[str]]:
    store = Store(tmp_path / "store")
    masters = {
        "usr/share/base-passwd/passwd.master": PASSWD.replace(":x:", ":*:").encode(),
        "usr/share/base-passwd/group.master": b"root:*:0:\nmail:*:8:\nshadow:*:42:\nutmp:*:43:\n",
    }
    packages = {
        "base-passwd": {"files": masters, "scripts": {"postinst": "touch /etc/subuid\n", "preinst": "exit 1\n"}},
        "base-files": {
            "files": {"usr/share/base-files/motd": b"hello\n", "usr/lib/os-release": b"ID=debian\n"},
            "dirs": {"etc": 0o755, "var/run": 0o755, "var/log": 0o755},
            "scripts": {"postinst": BASE_FILES},
        },
        "mawk": {"files": {"usr/bin/mawk": b"m"}, "scripts": {"postinst": POSTINST}},
        "gawk": {
            "files": {"usr/bin/gawk": b"g"},
            "scripts": {"postinst": "update-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10\n"},
        },
        "tzdata": {"files": {"usr/share/zoneinfo/Etc/UTC": b"TZif"}},
        "liba": {"files": {"usr/lib/x86_64-linux-gnu/liba.so.1": elf("liba.so.1")}},
    }
    layers = [layer(store, tmp_path, n, **packages[n]) for n in packages if n in names]
    tree = Tree(LayerStore(store).read)
    for made in layers:
        tree.apply(made)
    report = configure_static(tree, layers, epoch=EPOCH)
    assert all(p in report.origins for p, n in tree.nodes.items() if n.layer < 0)
    return tree, list(report.not_run), list(report.notes)


def test_a_distroless_root(tmp_path: Path) -> None:
    tree, not_run, notes = distroless(tmp_path, {"base-passwd", "base-files", "mawk", "gawk", "tzdata", "liba"})
    assert tree.read("etc/passwd").decode() == PASSWD
    assert tree.read("etc/shadow").decode().splitlines()[0] == f"root:*:{DAY}:0:99999:7:::"
    assert (tree.get("etc/shadow").mode, tree.get("etc/shadow").gid) == (0o640, 42)  # type: ignore[union-attr]
    assert tree.read("etc/motd") == b"hello\n"
    assert tree.read("etc/subuid") == b""
    entry = tree.get("var/mail")
    assert entry is not None and (entry.mode, entry.gid) == (0o2775, 8)
    assert tree.nodes["var/run"].entry.link == "/run"
    assert tree.nodes["etc/alternatives/awk"].entry.link == "/usr/bin/gawk"
    assert tree.nodes["usr/bin/awk"].entry.link == "/etc/alternatives/awk"
    assert tree.nodes["etc/localtime"].entry.link == "/usr/share/zoneinfo/Etc/UTC"
    assert tree.get("tmp").mode == 0o1777  # type: ignore[union-attr]
    assert tree.nodes["lib"].entry.link == "usr/lib"
    assert tree.exists(CACHE)
    assert tree.children("var/lib/dpkg") == ["status.d"]
    assert tree.read("var/lib/dpkg/status.d/mawk").startswith(b"Package: mawk\nVersion: 1\n")
    assert b"usr/bin/mawk" in tree.read("var/lib/dpkg/status.d/mawk.md5sums")
    assert not_run == [
        "base-files: postinst not run; made instead: folders, links and the files of /usr/share/base-files",
        "base-passwd: postinst not run; made instead: passwd, group, shadow and gshadow",
        "base-passwd: preinst not run",
        "gawk: postinst not run; made instead: its alternatives",
        "mawk: postinst not run",
    ]
    assert notes == [
        "mawk: the alternative `/usr/bin/$x $x /usr/bin/$x.p 5` is not made, as only a shell could read it"
    ]


@pytest.mark.parametrize("names", [set(), {"tzdata"}, {"base-files"}, {"mawk"}, {"liba", "base-passwd"}])
def test_any_set_of_packages_is_served(tmp_path: Path, names: set[str]) -> None:
    tree, _, _ = distroless(tmp_path, names)
    assert tree.read("etc/passwd").startswith(b"root:x:0:0:root:/root:/bin/")
    assert tree.get("tmp").mode == 0o1777  # type: ignore[union-attr]


def test_accounts_of_sysusers(tmp_path: Path) -> None:
    conf = 'u messagebus - "System Message Bus"\ng input 104\nu! web 33:shadow - /srv\nm web users\nx y\nu "a b" -\n'
    before = tree_of(tmp_path, debian(**{"usr/lib/sysusers.d/dbus.conf": conf}))
    tree = before.copy()
    recorder = Recorder(tree)
    accounts = read_accounts(tree, EPOCH)
    make_declared(recorder, accounts)
    write_accounts(recorder, accounts)
    # the first line is that of systemd-sysusers 257 for Debian 13's dbus
    assert tree.read("etc/passwd").decode().splitlines()[-2:] == [
        "messagebus:x:999:999:System Message Bus:/:/usr/sbin/nologin",
        "web:x:998:42::/srv:/usr/sbin/nologin",
    ]
    assert tree.read("etc/shadow").decode().splitlines()[-2] == f"messagebus:!*:{DAY}::::::"
    assert tree.read("etc/gshadow").decode().splitlines()[-1] == "messagebus:!*::"
    assert "input:x:104:\n" in tree.read("etc/group").decode()
    assert "users:x:100:web\n" in tree.read("etc/group").decode()
    assert recorder.notes == ["sysusers.d: account 'a b' is not made"]
    assert [c for c in changes(before, tree) if "etc/" not in c] == []
