"""GRUB's configuration and images: a command line reaches the kernel as it is, or is refused in words."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mkroot.boot import grub
from mkroot.errors import BootError
from tests.unit import efi


def entry(cmdline: str = "console=ttyS0", **more: str | None) -> grub.Entry:
    fields: dict[str, str | None] = {
        "title": "Debian 13",
        "kernel": "/d/vmlinuz",
        "initramfs": "/d/initrd",
        "marker": "/d/1.id",
    }
    return grub.Entry(cmdline=cmdline, **{**fields, **more})  # type: ignore[arg-type]


def arguments(line: str) -> list[str]:
    """The words of a line in GRUB's language as far as mkroot writes it: bare ones and apostrophes."""
    words, word, quoted = [], "", False
    for i, c in enumerate(line):
        if quoted:
            quoted, word = (False, word) if c == "'" else (True, word + c)
        elif c == "'":
            quoted = True
        elif c == "\\":
            pass
        elif line[i - 1] == "\\":
            word += c
        elif c == " ":
            words.append(word)
            word = ""
        else:
            assert c not in '"$;{}|&<>#*?[]()!', f"{c} has a meaning outside of apostrophes"
            word += c
    assert not quoted
    return [*words, word]


def handed_on(words: list[str]) -> str:
    """What GRUB's loader makes of its arguments (grub-core/lib/cmdline.c)."""
    escaped = ["".join("\\" + c if c in "\\'\"" else c for c in word) for word in words]
    return " ".join(f'"{word}"' if " " in word else word for word in escaped)


@pytest.mark.parametrize(
    "cmdline",
    [
        "root=UUID=1-2 ro quiet",
        "x=$HOME;y z={a,b} t=#h p=a|b&c<d>e q=[*?]! r=(x)",
        '"dyndbg=file a.c +p" quiet',
        'a "b c" "d  e"',
        "console=tty0 console=ttyS0,115200n8",
        "opt=%d,~x,@y",
    ],
)
def test_a_command_line_reaches_the_kernel_as_it_is(cmdline: str) -> None:
    assert handed_on(arguments(grub.grub_cmdline(cmdline))) == cmdline
    assert f" linux /d/vmlinuz {grub.grub_cmdline(cmdline)}\n" in grub.config(entry(cmdline)).decode()


@pytest.mark.parametrize(
    ("cmdline", "words"),
    [
        ('dyndbg="file a.c +p"', "quotation marks"),
        ('"quiet"', "quotation marks"),
        ('a "b', "quotation marks"),
        ("init=/it's", "apostrophe"),
        ('"a b\'s"', "apostrophe"),
        (r"root=LABEL=a\x20b", "backslash"),
    ],
)
def test_a_command_line_that_would_change_is_refused(cmdline: str, words: str) -> None:
    with pytest.raises(BootError, match=f"it would change the {words}") as caught:
        grub.config(entry(cmdline))
    assert caught.value.hint


def test_spaces_between_words_are_one() -> None:
    assert grub.grub_cmdline("a   b") == "a b"
    assert grub.grub_cmdline("") == ""


def test_the_configuration_starts_one_entry_at_once() -> None:
    text = grub.config(entry("root=LABEL=root console=tty0 console=ttyS1,9600e7", title="It's {Debian}")).decode()
    assert text.splitlines() == [
        "set default=0",
        "set timeout=0",
        "serial --unit=1 --speed=9600 --parity=even --word=7",
        "terminal_input serial console",
        "terminal_output serial console",
        'search --no-floppy --set=root --hint="$root" --file /d/1.id',
        "menuentry 'It'\\''s {Debian}' {",
        "    linux /d/vmlinuz root=LABEL=root console=tty0 console=ttyS1,9600e7",
        "    initrd /d/initrd",
        "}",
    ]
    assert "initrd" not in grub.config(entry(initramfs=None)).decode()


@pytest.mark.parametrize(
    ("cmdline", "serial"),
    [
        ("console=ttyS0", "serial --unit=0"),
        ("console=ttyS0,115200", "serial --unit=0 --speed=115200"),
        ("console=ttyS0,38400n8r", "serial --unit=0 --speed=38400 --parity=no --word=8"),
        ("console=ttyS0 console=ttyS2", "serial --unit=2"),
        ("console=tty0", None),
        ("console=ttyAMA0", None),
        ("console=ttyS0,fast", None),
        ("xconsole=ttyS0", None),
        ('"x=console=ttyS0 console=ttyS0"', None),
    ],
)
def test_grub_speaks_on_the_serial_line_of_the_kernels_console(cmdline: str, serial: str | None) -> None:
    lines = grub.config(entry(cmdline)).decode().splitlines()
    assert [line for line in lines if line.startswith("serial ")] == ([serial] if serial else [])
    assert ("terminal_output console" in lines) == (serial is None)


def test_grub_itself_finds_no_fault_in_the_configuration(tmp_path: Path) -> None:
    check = shutil.which("grub-script-check")
    if check is None:
        pytest.skip("grub-script-check is not installed (package grub-common)")
    (tmp_path / "grub.cfg").write_bytes(grub.config(entry('x=$HOME;y z={a "b c" t=#h', title="It's a } here")))
    subprocess.run([check, tmp_path / "grub.cfg"], check=True)


@pytest.mark.parametrize("kind", [grub.BIOS, grub.BIOS_CD, *grub.EFI.values()])
def test_an_image_carries_where_it_finds_its_configuration(kind: str) -> None:
    seen: list[tuple[str, Sequence[str], Mapping[str, bytes]]] = []

    def mkimage(kind: str, arguments: Sequence[str], files: Mapping[str, bytes]) -> bytes:
        seen.append((kind, arguments, files))
        return b"image"

    assert grub.make_core(kind, entry(), mkimage) == b"image"
    ((asked, words, files),) = seen
    assert asked == kind and words[:2] == ["-c", "early.cfg"] and words[2:4] == ["-p", "/boot/grub"]
    assert {"fat", "iso9660", "part_gpt", "normal", "linux", "search_fs_file", "serial"} <= set(words)
    assert ("biosdisk" in words) == kind.startswith("i386")
    early = files["early.cfg"].decode().splitlines()
    assert early[0] == "serial --unit=0"
    assert early[-2:] == [
        'search --no-floppy --set=root --hint="$root" --file /d/1.id',
        "set prefix=($root)/boot/grub",
    ]


def test_formats_share_a_folder_of_modules() -> None:
    assert [grub.platform(k) for k in ("i386-pc", "i386-pc-eltorito", "x86_64-efi")] == [
        "i386-pc",
        "i386-pc",
        "x86_64-efi",
    ]


@pytest.mark.parametrize("kind", ["i386-pc", "i386-pc-eltorito", "x86_64-efi"])
def test_grub_mkimage_takes_the_arguments(tmp_path: Path, kind: str) -> None:
    modules = Path("/usr/lib/grub") / grub.platform(kind)
    if shutil.which("grub-mkimage") is None or not modules.is_dir():
        pytest.skip(f"grub-mkimage and the modules of {kind} are not installed")

    def mkimage(kind: str, arguments: Sequence[str], files: Mapping[str, bytes]) -> bytes:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        command = ["grub-mkimage", "-O", kind, "-d", str(modules), "-o", "out", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True)
        return (tmp_path / "out").read_bytes()

    image = grub.make_core(kind, entry(), mkimage)
    assert len(image) > 20_000
    assert image == grub.make_core(kind, entry(), mkimage)
    if kind.endswith("-efi"):
        assert grub.built_in_prefix(image, "image") == "/boot/grub"


def test_a_ready_image_tells_where_it_reads_its_configuration() -> None:
    assert grub.built_in_prefix(efi.grub("/EFI/debian"), "x") == "/EFI/debian"
    assert grub.built_in_prefix(efi.grub("/EFI/ubuntu", config=b"normal (memdisk)/grub.cfg\n"), "x") == "/EFI/ubuntu"


@pytest.mark.parametrize("prefix", [None, "", "(memdisk)/boot", "/EFI/../..", "relative"])
def test_a_ready_image_without_a_plain_folder_tells_none(prefix: str | None) -> None:
    assert grub.built_in_prefix(efi.grub(prefix), "x") is None


def test_a_ready_image_that_is_damaged_tells_none() -> None:
    whole = efi.grub("/EFI/debian")
    start = whole.index(b"mimg")
    assert grub.built_in_prefix(efi.program(), "x") is None
    for at in range(start, start + 48):
        for value in (0, 0xFF):
            damaged = whole[:at] + bytes([value]) + whole[at + 1 :]
            assert grub.built_in_prefix(damaged, "x") in (None, "/EFI/debian")
    with pytest.raises(BootError, match="cut short"):
        grub.built_in_prefix(whole[: start + 20], "x")
