"""Which architectures' programs run on this host, and how: by the processor, the kernel's registrations, or our own."""

from __future__ import annotations

import marshal
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mkroot.errors import SandboxError
from mkroot.rootfs import emulator
from mkroot.rootfs.identity import find_tool

PACKAGE = "qemu-user-static"
_BINFMT = "/proc/sys/fs/binfmt_misc"
_WITHOUT = "`configure: static` and `configure: none` work without"


class Native(msgspec.Struct, frozen=True, tag=True):
    """The processor runs them."""


class Registered(msgspec.Struct, frozen=True, tag=True):
    """The host's binfmt_misc has them run in any root. interpreter: by what, "" where it cannot be seen."""

    interpreter: str


class Own(msgspec.Struct, frozen=True, tag=True):
    """A sandbox registers an emulator for itself alone. interpreter: its path."""

    interpreter: str


class Missing(msgspec.Struct, frozen=True, tag=True):
    """They do not run. why: half a sentence. hint: what to install or enable. install: Debian packages that help."""

    why: str
    hint: str
    install: tuple[str, ...] = ()


How = Native | Registered | Own | Missing


class Machine(msgspec.Struct, frozen=True):
    """An architecture as ELF headers, QEMU and uname(2) know it.

    bits, order, number, flags: EI_CLASS, EI_DATA (as `struct` has it), e_machine, e_flags. qemu: QEMU's name of it.
    uname: the kernel's. code: a program that exits with the number of words of its command line as its status.
    """

    bits: int
    order: str
    number: int
    flags: int
    qemu: str
    uname: str
    code: bytes


def _words(order: str, *numbers: int) -> bytes:
    return struct.pack(f"{order}{len(numbers)}I", *numbers)


# By Debian's name. Each program loads the word that the stack pointer points to, which is argc (the ABI supplements,
# "process initialization"), and the number of exit(2), and makes a system call.
MACHINES = {
    "amd64": Machine(64, "<", 62, 0, "x86_64", "x86_64", bytes.fromhex("5f b83c000000 0f05")),
    "i386": Machine(32, "<", 3, 0, "i386", "i686", bytes.fromhex("5b b801000000 cd80")),
    "arm64": Machine(64, "<", 183, 0, "aarch64", "aarch64", _words("<", 0xF94003E0, 0xD2800BA8, 0xD4000001)),
    "armhf": Machine(32, "<", 40, 0x05000000, "arm", "armv7l", _words("<", 0xE59D0000, 0xE3A07001, 0xEF000000)),
    "armel": Machine(32, "<", 40, 0x05000000, "arm", "armv5tel", _words("<", 0xE59D0000, 0xE3A07001, 0xEF000000)),
    "riscv64": Machine(64, "<", 243, 5, "riscv64", "riscv64", _words("<", 0x00013503, 0x05D00893, 0x00000073)),
    "ppc64el": Machine(64, "<", 21, 2, "ppc64le", "ppc64le", _words("<", 0xE8610000, 0x38000001, 0x44000002)),
    "s390x": Machine(64, ">", 22, 0, "s390x", "s390x", bytes.fromhex("e320f0000004 a7190001 0a00")),
    "loong64": Machine(64, "<", 258, 0x43, "loongarch64", "loongarch64", _words("<", 0x28C00064, 0x0281740B, 0x2B0000)),
    "mips64el": Machine(64, "<", 8, 0x80000007, "mips64el", "mips64", _words("<", 0xDFA40000, 0x240213C2, 12)),
    "mipsel": Machine(32, "<", 8, 0x70001007, "mipsel", "mips", _words("<", 0x8FA40000, 0x24020FA1, 12)),
}
USUAL = ("amd64", "arm64", "armhf", "i386", "ppc64el", "riscv64", "s390x")  # to be told of
_SIBLINGS = {"amd64": ("i386",), "arm64": ("armhf", "armel"), "armhf": ("armel",), "mips64el": ("mipsel",)}
_BASE, _PAGE = 0x400000, 0x10000  # where a sample is loaded; the largest page that any of these kernels has


def native() -> str:
    """Return the architecture of this host's kernel by Debian's name; uname's own for an unknown one."""
    machine = os.uname().machine
    if machine.startswith("arm"):
        return "armhf" if machine >= "armv7" else "armel"
    return next((name for name, m in MACHINES.items() if m.uname == machine), machine)


def sample(architecture: str) -> bytes:
    """Return a program of an architecture that exits with the number of words of its command line (elf(5))."""
    m = MACHINES[architecture]
    head, part = (64, 56) if m.bits == 64 else (52, 32)
    size = head + part + len(m.code)
    word = "Q" if m.bits == 64 else "I"
    file = struct.pack(
        f"{m.order}HHI3{word}I6H", 2, m.number, 1, _BASE + head + part, head, 0, m.flags, head, part, 1, 0, 0, 0
    )
    if m.bits == 64:
        load = struct.pack(f"{m.order}II6Q", 1, 5, 0, _BASE, _BASE, size, size, _PAGE)
    else:
        load = struct.pack(f"{m.order}8I", 1, 0, _BASE, _BASE, size, size, 5, _PAGE)
    return _ident(m) + file + load + m.code


def _ident(m: Machine) -> bytes:
    return b"\x7fELF" + bytes([m.bits // 32, 1 if m.order == "<" else 2, 1]).ljust(12, b"\0")


def rules(architecture: str) -> list[bytes]:
    """Return what to write to binfmt_misc's `register`, with `%s` for the emulator; the one to prefer first.

    The system's ABI is left open, for a static program with indirect functions says GNU; so is whether it is loaded
    anywhere (admin-guide/binfmt-misc.rst). Flags: F, the emulator is opened at once; C, a program's setuid bits count;
    O, which C brings, the program is handed over open; P, its name is kept, which QEMU before 6.0 does not understand.
    """
    m = MACHINES[architecture]
    magic = _ident(m) + struct.pack(f"{m.order}HH", 2, m.number)
    mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + struct.pack(f"{m.order}HH", 0xFFFE, 0xFFFF)
    told = b":".join(b"".join(b"\\x%02x" % byte for byte in text) for text in (magic, mask))
    return [
        b":%s%s:M::%s:%%s:%s" % (architecture.encode(), name, told, flags)
        for name, flags in ((b"", b"POCF"), (b"-", b"OCF"))
    ]


def interpreter(architecture: str) -> str:
    """Return the path of QEMU's emulator of an architecture that needs no library of the root's, "" for none."""
    name = f"qemu-{MACHINES[architecture].qemu}"
    found = [path for n in (f"{name}-static", name) if (path := find_tool(n))]
    return next((os.path.realpath(path) for path in found if _static(path)), "")


def _static(path: str) -> bool:
    """Tell whether an ELF program names no interpreter of its own (PT_INTERP)."""
    try:
        with open(path, "rb") as f:
            data = f.read(4096)
        wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
        at, size, count = struct.unpack_from(f"{order}{'32xQ14xHH' if wide else '28xI10xHH'}", data)
        kinds = [struct.unpack_from(f"{order}I", data, at + n * size)[0] for n in range(count)]
    except (OSError, struct.error, IndexError):
        return False
    return data[:4] == b"\x7fELF" and 3 not in kinds


def given(architecture: str) -> dict[str, object] | None:
    """Return what a sandbox must know to run an architecture's programs, None where this host's kernel is of it."""
    if architecture not in MACHINES or architecture == native():
        return None
    return {
        "sample": sample(architecture),
        "rules": rules(architecture),
        "interpreter": interpreter(architecture),
    }


def how(architecture: str) -> How:
    """Return how programs of an architecture run in a root on this host; see `ways`."""
    return ways([architecture])[architecture]


def ways(architectures: Sequence[str]) -> dict[str, How]:
    """Return how programs of architectures run in a root on this host, each tried for real in a process of its own.

    Works before `identity.assume` and after it, and changes nothing. Whether scripts can run at all is another
    question: that of the identity.
    """
    names = list(dict.fromkeys(map(str, architectures)))  # a recipe's are of a type that marshal does not take
    found: dict[str, How] = {name: Native() for name in names if name == native()}
    for name in names:
        if name not in MACHINES and name not in found:
            found[name] = Missing("mkroot does not know it", "build on a machine of that architecture")
    asked = [name for name in names if name not in found]
    answers = _ask(asked) if asked else {}
    for name in asked:
        step, number = answers.get(name, (emulator.EMULATE, 0))
        if step == emulator.KERNEL:
            path = _host_interpreter(name)
            sibling = path is None and name in _SIBLINGS.get(native(), ())
            found[name] = Native() if sibling else Registered(path or "")
        elif step == emulator.OWN:
            found[name] = Own(interpreter(name))
        else:
            found[name] = missing(name, step, number)
    return {name: found[name] for name in names}


def _place() -> str | None:
    """Return a folder for files that are executed; None for the usual one, which is not always one for that."""
    import tempfile

    for folder in (tempfile.gettempdir(), "/var/tmp", "/dev/shm"):
        if os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return folder
    return None


def _ask(architectures: list[str]) -> dict[str, tuple[str, int]]:
    """Return what `mkroot.rootfs.emulator` says of each; nothing where it comes to no end."""
    import subprocess
    import tempfile

    code = f"import sys; sys.path.append(sys.argv[1]); from {emulator.__name__} import main; main()"
    words = [sys.executable, "-I", "-S", "-B", "-c", code, str(Path(__file__).parents[2])]
    try:
        with tempfile.TemporaryDirectory(prefix="mkroot-foreign-", dir=_place()) as folder:
            os.chmod(folder, 0o755)
            for name in architectures:
                Path(folder, name).write_bytes(sample(name))
                os.chmod(Path(folder, name), 0o755)
            data = marshal.dumps([(name, given(name), folder) for name in architectures])
            quiet = subprocess.DEVNULL
            done = subprocess.run(words, input=data, stdout=subprocess.PIPE, stderr=quiet, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):  # no folder for files that are executed, and the like
        return {}
    if done.returncode:
        return {}
    answers: dict[str, tuple[str, int]] = marshal.loads(done.stdout)
    return answers


def _host_interpreter(architecture: str) -> str | None:
    """Return what the host's binfmt_misc has run an architecture's programs, None where nothing is to be seen."""
    program = sample(architecture)
    try:
        names = [n for n in os.listdir(_BINFMT) if n not in ("register", "status")]
    except OSError:
        return None
    for name in sorted(names):
        try:
            lines = Path(_BINFMT, name).read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        fields = dict(line.split(" ", 1) for line in lines if " " in line)
        if "enabled" not in lines or "magic" not in fields:
            continue
        offset, magic = int(fields.get("offset", "0")), bytes.fromhex(fields["magic"])
        mask = bytes.fromhex(fields.get("mask", "ff" * len(magic)))
        looked = program[offset : offset + len(magic)]
        if len(looked) == len(magic) and all(a & m == b & m for a, b, m in zip(looked, magic, mask)):
            return fields.get("interpreter", "")
    return None


def missing(architecture: str, step: str, number: int) -> Missing:
    """Return why programs of an architecture do not run, from where `mkroot.rootfs.emulator` came to its end."""
    name = f"qemu-{MACHINES[architecture].qemu}"
    host = f"have root register one for the whole host (`{PACKAGE}` with binfmt-support or systemd does)"
    if step == emulator.ABSENT:
        dynamic = find_tool(name)
        if dynamic:
            why = f"`{dynamic}` needs libraries that are not in the root"
            return Missing(why, f"install `{PACKAGE}`, whose `{name}-static` needs none", (PACKAGE,))
        why = f"this processor does not run them, and `{name}-static` is not installed"
        return Missing(why, f"install `{PACKAGE}`", (PACKAGE,))
    cause = os.strerror(number) if number else "it does not work here"
    if step == emulator.USERS:
        return Missing(f"an emulator cannot be registered for a sandbox alone, without a user namespace: {cause}", host)
    if step == emulator.REGISTER:
        release = os.uname().release
        why = f"Linux {release} does not let a sandbox register an emulator for itself: {cause}"
        return Missing(why, f"use Linux 6.7 or later with binfmt_misc, or {host}")
    return Missing(
        f"`{interpreter(architecture) or name}` cannot run a program: {cause}", f"install another `{PACKAGE}`"
    )


def fault(architecture: str, lack: Missing) -> SandboxError:
    """Return the error that says why scripts of an architecture cannot run, and what to do."""
    return SandboxError(
        f"maintainer scripts of `{architecture}` cannot run here: {lack.why}", hint=f"{lack.hint}; {_WITHOUT}"
    )


def check(architecture: str) -> None:
    """Raise SandboxError where programs of an architecture do not run on this host."""
    found = how(architecture)
    if isinstance(found, Missing):
        raise fault(architecture, found)
