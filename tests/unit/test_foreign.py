"""Programs of foreign architectures: what runs them here, what a sandbox changes for it, and what is said without.

No foreign root is needed: a sample of each architecture runs, and for what scripts do in the sandbox's own user
namespace the host's tools serve, in a root that is said to be for arm64.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mkroot.recipe.values import Text
from mkroot.rootfs import emulator, foreign, seccomp
from tests.testarchive import Archive
from tests.unit.boxes import KINDS, run
from tests.unit.commands import PROGRAM, Program

NATIVE = foreign.native()
OTHERS = [name for name in foreign.MACHINES if name != NATIVE]

# In the code that runs as another user: a root, a second architecture and its emulator, a sandbox for it on a union.
FOREIGN = """
from mkroot.rootfs import emulator, foreign
def bare():
    at = work()
    for name in ("dev", "proc"):
        (at / name).mkdir()
    return at
def put(at, name, content, mode=0o755):
    (at / name).write_bytes(content)
    os.chmod(at / name, mode)
def hidden(path, by="/dev/null"):  # in this process's own mount namespace
    linux.mount(by, path, None, linux.MS_BIND)
def tried(action):
    try:
        return action()
    except MkrootError as e:
        return [type(e).__name__, e.what, e.hint]
"""


def emulated(*names: str) -> None:
    """Skip the test where this host has no emulator of these, or its kernel none for a sandbox alone."""
    for name, way in foreign.ways(names).items():
        if not isinstance(way, foreign.Own):
            pytest.skip(f"{name} is not run by a sandbox's own emulator here: {way}")


# ---- what runs


def test_this_hosts_own_programs_need_nothing() -> None:
    assert foreign.how(NATIVE) == foreign.Native()
    assert foreign.given(NATIVE) is None
    assert foreign.given("") is None
    assert isinstance(foreign.how("pdp11"), foreign.Missing)


def test_a_recipes_word_for_an_architecture_is_taken() -> None:
    emulated("arm64")
    assert isinstance(foreign.how(Text("arm64")), foreign.Own)
    foreign.check(Text("arm64"))


@pytest.mark.parametrize("name", OTHERS)
def test_a_sample_is_what_its_architecture_asks_for(name: str) -> None:
    data, machine = foreign.sample(name), foreign.MACHINES[name]
    assert data[:4] == b"\x7fELF"
    assert struct.unpack_from(f"{machine.order}HH", data, 16) == (2, machine.number)
    assert data.endswith(machine.code)


@KINDS
def test_every_architecture_runs_in_a_sandbox_and_nothing_is_left(kind: str) -> None:
    emulated("arm64", "s390x")
    code = (
        FOREIGN
        + f"""
ways = foreign.ways({OTHERS!r})
seen, left, limits = {{}}, {{}}, []
for name, way in ways.items():
    if isinstance(way, foreign.Missing):
        continue
    at = bare()
    put(at, "sample", foreign.sample(name))
    put(at, "script", b"#!/sample given\\n")
    gnu = foreign.sample(name)[:7] + b"\\x03" + foreign.sample(name)[8:]  # ELFOSABI_GNU, of static programs
    put(at, "gnu", gnu)
    kind = 17 if foreign.MACHINES[name].order == ">" else 16
    put(at, "pie", gnu[:kind] + b"\\x03" + gnu[kind + 1:])
    with box(at, architecture=name) as b:
        seen[name] = [b.run(words).returncode for words in (["/gnu"], ["/pie", "a"], ["/sample", "a", ""], ["/script"])]
        limits += b.limits
    left[name] = sorted(os.listdir(at)) + os.listdir(at / "dev")
emit(seen=seen, left=left, limits=limits, missing=[n for n, w in ways.items() if isinstance(w, foreign.Missing)])
"""
    )
    got = run(kind, code)
    assert got["limits"] == []
    assert set(got["seen"]) | set(got["missing"]) == set(OTHERS)
    for name, words in got["seen"].items():
        assert words == [1, 2, 3, 3], name  # the last is `/sample given /script`
        assert got["left"][name] == ["dev", "gnu", "pie", "proc", "sample", "script"]


@KINDS
def test_ways_are_found_before_and_after_the_namespaces(kind: str) -> None:
    emulated("arm64")
    got = run(
        kind,
        FOREIGN + "emit(way=msgspec.to_builtins(foreign.how('arm64')))".replace("msgspec", "__import__('msgspec')"),
    )
    assert got["way"] == {"type": "Own", "interpreter": foreign.interpreter("arm64")}


# ---- the user namespace, to scripts

PLENTY = """
set -e
umask 027
mkdir /made; cd /made
echo a >a; chown 5:7 a
echo s >s; chown 33 s; chmod 4755 s
mkdir g; chgrp 42 g; chmod 2775 g; echo x >g/inside
ln -s /etc/passwd l; chown -h 8:9 l
ln a hard
chown 60000:60001 /etc/group
cp -a /capable copied
mkfifo p 2>/dev/null || mknod p p
"""
COMPARED = (
    FOREIGN
    + """
base_root = work() / "root"
shutil.copytree(root(), base_root, symlinks=True)
put(base_root, "capable", b"#!")
if me.kind != "single":
    os.setxattr(base_root / "capable", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
def tree(architecture):
    made = union_of(sandbox.scaffold(work()), base_root)
    with box(made.at, architecture=architecture) as b:
        done = b.run(["sh", "-c", SCRIPT])
        owners = b.owners()
        inside = b.run(["readlink", "/proc/self/ns/user"]).output.decode().strip()
    changes = upper.read_upper(made.upper, owners=owners)
    entries = {}
    for e in changes.entries:
        xattrs = {k: v.hex() for k, v in dict(e.xattrs).items()}
        entries[e.path] = [e.kind, oct(e.mode), e.uid, e.gid, e.link, e.device, xattrs]
    return done.returncode, done.output.decode(), entries, inside != os.readlink("/proc/self/ns/user"), b.limits
emit(native=tree(""), foreign=tree("arm64"))
"""
)


@pytest.mark.counts("rebuild")
@KINDS
def test_scripts_write_the_same_in_the_sandboxs_own_user_namespace(kind: str) -> None:
    emulated("arm64")
    got = run(kind, f"SCRIPT = {PLENTY!r}\n" + COMPARED)
    native, other = got["native"], got["foreign"]
    assert native[0] == 0, native[1]
    assert other[2] == native[2]
    assert other[:2] == native[:2]
    assert other[4] == native[4]
    assert (native[3], other[3]) == (False, True)
    made = other[2]
    assert made["made/s"][1:4] == ["0o4755", 33, 0]
    assert made["etc/group"][2:4] == [60000, 60001]
    if kind != "single":
        assert made["made/g/inside"][3] == 42
        assert made["made/copied"][6] == {"security.capability": "0100000200040000000000000000000000000000"}


DEVICES = """
umask 027
mkdir /made; cd /made
mknod c c 1 3; mknod -m 666 b b 254 1; mkdir in; cd in; mknod ../t c 5 0
for wrong in "zero c 0 0" "c/x c 1 3" "/made/c c 1 3"; do mknod $wrong 2>/dev/null && echo made; done
mknod c2 c 1 3 && (cat c2 2>/dev/null && echo opened); true
"""


@pytest.mark.counts("hostile")
def test_root_makes_the_devices_that_its_scripts_would(record_property: Any) -> None:
    emulated("arm64")
    got = run("root", f"SCRIPT = {DEVICES!r}\n" + COMPARED)
    assert got["native"][:2] == got["foreign"][:2] == [0, ""]
    assert got["foreign"][2] == got["native"][2]
    made = got["foreign"][2]
    assert made["made/c"][:6] == ["c", "0o640", 0, 0, "", [1, 3]]
    assert made["made/b"][:6] == ["b", "0o666", 0, 0, "", [254, 1]]
    assert set(made) == {"made", "made/b", "made/c", "made/t", "made/in", "made/in/c2"}
    record_property("cases", 4)


@pytest.mark.counts("hostile")
def test_who_is_not_root_in_the_sandbox_makes_no_device() -> None:
    emulated("arm64")
    code = (
        FOREIGN
        + """
made = union_of(sandbox.scaffold(work()), root())
with box(made.at, architecture="arm64") as b:
    done = b.run(["sh", "-c", "cd /tmp; mknod d c 1 3"], user=(33, 33))
emit(code=done.returncode, out=done.output.decode(), left=os.listdir(made.at / "tmp"))
"""
    )
    got = run("root", code)
    assert got["code"] != 0
    assert "Operation not permitted" in got["out"]
    assert got["left"] == []


def test_devices_alone_are_handed_over() -> None:
    for calls in seccomp.CALLS.values():
        told = [k for code, _, _, k in seccomp.devices(calls) if code == 0x15]
        assert sorted(told[1:]) == sorted(n for name, n in calls.notified.items() if "mknod" in name)


def test_capabilities_and_system_calls_are_cut_down_as_ever() -> None:
    emulated("arm64")
    code = (
        FOREIGN
        + """
def state(architecture):
    made = union_of(sandbox.scaffold(work()), root())
    with box(made.at, architecture=architecture) as b:
        text = b.run(["cat", "/proc/self/status"]).output.decode()
        mounts = b.run(["cat", "/proc/self/mounts"]).output.decode()
        maps = b.run(["sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map"]).output.decode().split()
        binfmt = b.run(["ls", "/proc/sys/fs/binfmt_misc"]).output.decode()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    kept = {k: fields[k].strip() for k in ("CapBnd", "CapEff", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp", "Umask")}
    return kept, [line.split()[1:3] for line in mounts.splitlines()], maps, binfmt
emit(native=state(""), foreign=state("arm64"))
"""
    )
    for kind in ("root", "mapped"):
        got = run(kind, code)
        assert got["foreign"][0] == got["native"][0]
        assert got["foreign"][1] == got["native"][1], "nothing of it is mounted in the root"
        assert "binfmt" not in str(got["foreign"][1])
        assert got["foreign"][3] == ""  # and nothing is to be seen of it
        if kind == "root":
            assert got["foreign"][2] == ["0", "0", "4294967295"] * 2


@pytest.mark.counts("hostile")
@KINDS
def test_the_emulator_is_read_only_to_whom_it_runs(kind: str) -> None:
    """Root in the sandbox has the host's file as /proc/PID/exe while a foreign program runs (CVE-2019-5736)."""
    emulated("arm64")
    code = (
        FOREIGN
        + """
loop = foreign.sample("arm64").replace(foreign.MACHINES["arm64"].code, (0x14000000).to_bytes(4, "little") * 3)
path = foreign.interpreter("arm64")
def state():
    st = os.stat(path)
    return st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns
before = state()
made = union_of(sandbox.scaffold(work()), root())
put(made.at, "loop", loop)
with box(made.at, architecture="arm64") as b:
    out = b.run(["sh", "-c", "/loop & sleep 0.3; chmod 777 /proc/$!/exe; (echo >/proc/$!/exe)"]).output.decode()
emit(out=out, same=before == state())
"""
    )
    got = run(kind, code)
    assert got["same"]
    if kind == "root":  # for whom it would be possible
        assert "chmod: changing permissions of" in got["out"]
        assert got["out"].count("Read-only file system") + got["out"].count("Text file busy") == 2, got["out"]


# ---- the host's own registration


HOST = (
    FOREIGN
    + """
at = "/proc/sys/fs/binfmt_misc"  # of the user namespace that the tests' user got: to a sandbox, the host's
linux.mount("binfmt_misc", at, "binfmt_misc")
def register(interpreter, flags):
    with open(f"{at}/register", "wb", buffering=0) as f:
        rule = foreign.rules("arm64")[1].rpartition(b":")[0] % interpreter.encode()
        f.write(rule + b":" + flags)
made = bare()
put(made, "sample", foreign.sample("arm64"))
def state():
    with box(made, architecture="arm64") as b:
        pid = b._pid
        own = os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
        return [b.run(["/sample", "a"]).returncode, own, type(foreign.how("arm64")).__name__]
path = foreign.interpreter("arm64")
"""
)


@pytest.mark.counts("rebuild")
def test_what_the_host_registered_is_taken_as_the_kernel_takes_it(record_property: Any) -> None:
    emulated("arm64")
    code = (
        HOST
        + """
seen = {"none": state()}
register(path, b"F")
seen["opened at once"] = state()
told = foreign.how("arm64").interpreter
with open(f"{at}/arm64-", "w") as f: f.write("0")
seen["switched off"] = state()
with open(f"{at}/arm64-", "w") as f: f.write("-1")
register("/emulator", b"")
seen["not in the root"] = state()
shutil.copyfile(path, made / "emulator"); os.chmod(made / "emulator", 0o755)
seen["in the root"] = state()
emit(seen=seen, told=told, path=path)
"""
    )
    got = run("mapped", code)
    assert got["seen"] == {
        "none": [2, True, "Own"],
        "opened at once": [2, False, "Registered"],
        "switched off": [2, True, "Own"],
        "not in the root": [2, True, "Own"],
        "in the root": [2, False, "Own"],
    }
    assert got["told"] == got["path"]
    record_property("cases", 5)


# ---- where nothing works


MISSING = {
    "no emulator": ("", emulator.ABSENT, 0, "`qemu-aarch64-static` is not installed", "qemu-user-static"),
    "no user namespace": ("", emulator.USERS, errno.ENOSPC, "No space left on device", "have root register one"),
    "an old kernel": ("", emulator.REGISTER, errno.EPERM, "Operation not permitted", "use Linux 6.7 or later"),
    "no binfmt_misc": ("", emulator.REGISTER, errno.ENODEV, "No such device", "with binfmt_misc"),
    "a broken emulator": ("", emulator.EMULATE, errno.ENOEXEC, "Exec format error", "another `qemu-user-static`"),
}


@pytest.mark.counts("fault")
@pytest.mark.parametrize("case", MISSING)
def test_the_error_names_the_architecture_and_what_helps(case: str) -> None:
    _, step, number, why, hint = MISSING[case]
    if step == emulator.ABSENT and shutil.which("qemu-aarch64", path="/usr/bin"):
        pytest.skip("an emulator with libraries is installed")
    error = foreign.fault("arm64", foreign.missing("arm64", step, number))
    assert "`arm64`" in error.what
    assert why in error.what
    assert hint in str(error.hint)
    assert "`configure: static` and `configure: none` work without" in str(error.hint)


BROKEN = {
    "gone": ("hidden(path)", "qemu-aarch64-static` is not installed"),
    "of another architecture": ("hidden(path, foreign.interpreter('s390x'))", "cannot run a program"),
    "of no namespace": (
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')", "without a user namespace: No space left",
    ),
    "of fewer ids": ("linux.prctl(linux.PR_CAPBSET_DROP, 6)", "Operation not permitted"),  # setgid: groups are lost
}  # fmt: skip


@pytest.mark.counts("fault")
@pytest.mark.parametrize("case", BROKEN)
def test_a_sandbox_that_cannot_run_its_root_says_so_and_leaves_nothing(case: str) -> None:
    emulated("arm64", "s390x")
    if case == "gone" and shutil.which("qemu-aarch64", path="/usr/bin"):
        pytest.skip("an emulator with libraries is installed")
    breaks, said = BROKEN[case]
    code = (
        FOREIGN
        + f"""
path = foreign.interpreter("arm64")
{breaks}
at = work()
for name in ("etc", "usr/sbin"):
    (at / name).mkdir(parents=True)
before = sorted(os.listdir(at)), os.stat(at).st_mtime_ns
def enter():
    with box(at, architecture="arm64") as b:
        return "it runs"
first, checked = tried(enter), tried(lambda: foreign.check("arm64"))
emit(first=first, checked=checked, same=before == (sorted(os.listdir(at)), os.stat(at).st_mtime_ns))
"""
    )
    got = run("mapped", code)
    assert got["first"] == got["checked"]
    kind, what, hint = got["first"]
    assert kind == "SandboxError"
    assert said in what
    assert "`configure: static`" in hint
    assert got["same"]


def test_an_emulator_that_needs_libraries_is_no_good(tmp_path: Path) -> None:
    host = Path("/usr/bin/env").read_bytes()
    for name, content, good in (
        ("dynamic", host, False),
        ("sample", foreign.sample("arm64"), True),
        ("small", foreign.sample("armhf"), True),
        ("big-endian", foreign.sample("s390x"), True),
        ("empty", b"", False),
        ("script", b"#!/bin/sh\n" * 20, False),
        ("cut", host[:70], False),
    ):
        (tmp_path / name).write_bytes(content)
        assert foreign._static(str(tmp_path / name)) == good, name
    assert not foreign._static(str(tmp_path / "nowhere"))


# ---- the program


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an archive for amd64 and arm64 with a package that has a script."""
    archive = Archive(tmp_path / "archive", architectures=("amd64", "arm64"))
    for name in archive.architectures:
        archive.add("base", "1.0", architecture=name, essential=True, files={"usr/bin/base": b"base"})
    archive.add("old", "1.0", architecture="arm64", scripts={"postinst": "#!/bin/sh\n"}, files={"usr/bin/old": b"old"})
    return archive


@pytest.mark.counts("fault")
def test_a_build_that_cannot_run_its_scripts_says_so_before_it_fetches(archive: Archive, tmp_path: Path) -> None:
    if os.geteuid() or NATIVE == "arm64" or not isinstance(foreign.how("arm64"), foreign.Own):
        pytest.skip("only root can hide the emulator, and there must be one")
    program = Program(tmp_path)
    with archive.serve() as server:
        for how, status in (("scripts", 1), ("static", 0), ("none", 0)):
            recipe = archive.recipe(
                uri=server.uri, arch=["arm64"], packages={"variant": "essential"}, configure=how, outputs=["tar"]
            )
            name = program.recipe(f"{how}.yaml", recipe)
            command = 'mount --bind /dev/null "$0"; shift; exec "$@"'
            words = ["unshare", "-m", "sh", "-c", command, foreign.interpreter("arm64"), "", *PROGRAM]
            done = subprocess.run(
                [*words, "build", name, "--no-lock"], capture_output=True, text=True, cwd=tmp_path, env=program.environ
            )
            assert done.returncode == status, done.stderr
            assert "Traceback" not in done.stderr
            if status:
                assert "maintainer scripts of `arm64` cannot run here" in done.stderr
                assert "`qemu-aarch64-static` is not installed" in done.stderr
                assert "hint: install `qemu-user-static`" in done.stderr
                assert server.paths() and not server.paths("*.deb")
                assert not (tmp_path / "out").exists()


def test_doctor_tells_what_runs_which_programs(tmp_path: Path) -> None:
    facts = {f["name"]: f for f in Program(tmp_path)("doctor", "--json").json["facts"] if f["part"] == "scripts"}
    assert set(foreign.USUAL) <= set(facts)
    for name in foreign.USUAL:
        way = foreign.how(name)
        assert facts[name]["state"] == ("lack" if isinstance(way, foreign.Missing) else "ok")
        if isinstance(way, foreign.Own):
            assert facts[name]["text"] == f"by {way.interpreter}, registered in the sandbox alone"
    assert facts[NATIVE]["text"] == "the processor runs them"
