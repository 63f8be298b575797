"""GRUB: what its images are made of, and the configuration that they read.

Rules: GRUB's manual ("Quoting", "search", "serial", "Invoking grub-mkimage"), and grub-core/lib/cmdline.c for what
becomes of a kernel's command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mkroot.boot.pe import read_program
from mkroot.errors import BootError

# (format, arguments, files) -> the image. It runs `grub-mkimage -O FORMAT -d /usr/lib/grub/PLATFORM -o OUT ARGUMENTS`
# in a folder that holds the files (names without folders, which the arguments use), PLATFORM being `platform(FORMAT)`.
MkImage = Callable[[str, Sequence[str], Mapping[str, bytes]], bytes]

BIOS = "i386-pc"
BIOS_CD = "i386-pc-eltorito"
EFI = {"amd64": "x86_64-efi", "arm64": "arm64-efi"}
PREFIX = "/boot/grub"
CONFIG = "boot/grub/grub.cfg"
_EARLY = "early.cfg"
_COMMON = (
    "part_gpt", "part_msdos", "fat", "iso9660", "normal", "configfile", "linux", "search", "search_fs_file", "serial",
    "terminal", "echo", "test", "true", "ls", "cat", "reboot", "halt",
)  # fmt: skip
_MODULES = {
    BIOS: ("biosdisk", *_COMMON),
    BIOS_CD: ("biosdisk", *_COMMON),
    EFI["amd64"]: ("efi_gop", "efi_uga", "all_video", "chain", *_COMMON),
    EFI["arm64"]: ("efi_gop", "all_video", "chain", *_COMMON),
}
_PLAIN = re.compile(r"[A-Za-z0-9_./,:=@%+~-]+")
_KERNEL_QUOTE = re.compile(r'"([^"]*)"')
_SERIAL = re.compile(r"ttyS([0-9]{1,2})(?:,([0-9]{1,7})(?:([noe])([5-8])?r?)?)?")
_PARITY = {"n": "no", "o": "odd", "e": "even"}
_MODULE_INFO = b"mimg"
_PREFIX_OBJECT = 3  # OBJ_TYPE_PREFIX, grub/kernel.h


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What GRUB starts: title, paths from the top of the boot file system (`/x/vmlinuz`), command line.

    marker: a file that no other boot file system has, by which this one is found.
    """

    title: str
    kernel: str
    initramfs: str | None
    cmdline: str
    marker: str


def platform(kind: str) -> str:
    """Return the folder below usr/lib/grub that has the modules of a format of grub-mkimage."""
    return BIOS if kind.startswith(BIOS) else kind


def config(entry: Entry) -> bytes:
    """Return `grub.cfg`: one entry, started at once, on the serial line too where the kernel's console is there.

    Where GRUB came from is asked first, so that the copy of a disk beside it is not taken for it. Raises BootError
    where GRUB cannot hand the command line on as it is.
    """
    lines = [
        "set default=0",
        "set timeout=0",
        *_terminal(entry.cmdline),
        f'search --no-floppy --set=root --hint="$root" --file {_quoted(entry.marker)}',
        f"menuentry {_quoted(entry.title)} {{",
        f"    linux {_quoted(entry.kernel)} {grub_cmdline(entry.cmdline)}".rstrip(),
    ]
    if entry.initramfs is not None:
        lines.append(f"    initrd {_quoted(entry.initramfs)}")
    return "\n".join([*lines, "}", ""]).encode()


def make_core(kind: str, entry: Entry, mkimage: MkImage) -> bytes:
    """Return GRUB as one program that looks for the marker's file system and reads `CONFIG` there.

    kind: BIOS (core.img), BIOS_CD (with the boot sector for El Torito) or one of EFI (an EFI program).
    """
    early = [
        *_terminal(entry.cmdline),
        f'search --no-floppy --set=root --hint="$root" --file {_quoted(entry.marker)}',
        f"set prefix=($root){PREFIX}",
    ]
    arguments = ["-c", _EARLY, "-p", PREFIX, *_MODULES[kind]]
    return mkimage(kind, arguments, {_EARLY: "\n".join([*early, ""]).encode()})


def built_in_prefix(image: bytes, where: str) -> str | None:
    """Return the folder in which a ready EFI image of GRUB reads grub.cfg, None where it has none.

    Debian and Ubuntu give theirs the folder of their own name, `/EFI/debian`. The image's section `mods` begins with
    grub_module_info64 (magic, padding, offset, size), then come objects (kind, size with these 8 bytes, content).
    """
    section = next((s for s in read_program(image, where).sections if s.name == "mods"), None)
    if section is None:
        return None
    data = image[section.offset : section.offset + min(section.size, section.memory or section.size)]
    if data[:4] != _MODULE_INFO or len(data) < 24:
        return None
    at, end = int.from_bytes(data[8:16], "little"), min(int.from_bytes(data[16:24], "little"), len(data))
    while at + 8 <= end:
        kind, size = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == _PREFIX_OBJECT:
            prefix = data[at + 8 : at + size].split(b"\0", 1)[0].decode("ascii", "replace")
            return prefix if re.fullmatch(r"(?:/[A-Za-z0-9_-]+)+", prefix) else None
        at += max(size, 8)
    return None


def grub_cmdline(cmdline: str) -> str:
    """Return a command line in GRUB's quoting, such that the kernel gets it word for word.

    GRUB puts `"` around a word with a space in it, and a backslash before each `"`, `'` and `\\`: even before that of
    `\\xNN`, in 2.06 and 2.12 of Debian and Ubuntu. So a word that is quoted as a whole arrives as it is. Raises
    BootError for what would not.
    """
    words = []
    for word in _words(cmdline):
        quoted = _KERNEL_QUOTE.fullmatch(word)
        inner = quoted.group(1) if quoted else word
        odd = next((c for c in inner if c in "\"'\\"), None)
        if odd is not None or (quoted and " " not in inner):
            raise BootError(
                f"GRUB cannot hand `{word}` on to the kernel as it is: it would change the {_NAMES[odd or chr(34)]}",
                where="recipe: boot.cmdline",
                hint='a value with spaces reaches the kernel as `"name=some words"`; other loaders take any',
            )
        words.append(_quoted(inner))
    return " ".join(words)


_NAMES = {'"': "quotation marks", "'": "apostrophe", "\\": "backslash"}


def _words(cmdline: str) -> list[str]:
    """Split a command line at the spaces that the kernel sees: those outside of `"` (lib/cmdline.c, next_arg)."""
    return re.findall(r'(?:[^ "]|"[^"]*"?)+', cmdline)


def _quoted(text: str) -> str:
    """Return a word of GRUB's language: bare, or within apostrophes, where nothing has a meaning."""
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def _terminal(cmdline: str) -> list[str]:
    """Return the commands for GRUB's own words: on the serial line of the kernel's console too, where it has one."""
    found = None
    for word in _words(cmdline):
        if word.startswith("console="):
            found = _SERIAL.fullmatch(word.removeprefix("console=")) or found
    if found is None:
        return ["terminal_output console"]
    unit, speed, parity, bits = found.groups()
    line = f"serial --unit={unit}"
    line += f" --speed={speed}" if speed else ""
    line += f" --parity={_PARITY[parity]}" if parity else ""
    line += f" --word={bits}" if bits else ""
    return [line, "terminal_input serial console", "terminal_output serial console"]
