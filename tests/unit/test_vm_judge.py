"""The verdict, from recorded consoles: each way in which a guest can end is told apart from the others."""

from __future__ import annotations

import base64

from mkroot.recipe.booting import Check, Test
from mkroot.vm.console import Console, clean, tail
from mkroot.vm.judge import LINGER, PANIC_GRACE, QUIET, Judge
from mkroot.vm.monitor import Event

NONCE = "5e1f"
BEGINS = f"mkroot-check {NONCE} begins"
TEST = Test(expect=("login:",), reject=("Oops",), run=(Check(cmd="true"), Check(cmd="grep x", exit=1)))
BIOS = b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n\x1b[2JWelcome to GRUB!\r\n\r\n"
KERNEL = (
    b"[    0.000000] Linux version 6.12.118+deb13-cloud-amd64 (debian-kernel@lists.debian.org)\r\n"
    b"[    1.918877] Run /init as init process\r\n"
    b"[    2.103112] mkroot-init: modules loaded\r\n"
    b"[    2.213112] mkroot-init: root found /dev/vda3 after 0.10 s\r\n"
    b"[    2.413112] mkroot-init: switching root\r\n"
)
SYSTEMD = (
    b"[    3.103112] systemd[1]: systemd 257.13-1~deb13u1 running in system mode (+PAM +AUDIT)\r\n"
    b"[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh.service\x1b[0m.\r\n"
)
PANIC = (
    b"[    2.159225] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
    b"[    2.159740] CPU: 0 PID: 1 Comm: swapper/0 Not tainted\r\n"
)
RESET = Event("RESET", guest=True, reason="guest-reset")


def verdict(*statuses: int, nonce: str = NONCE) -> str:
    out = base64.b64encode(b"words of the command\n").decode()
    boot = base64.b64encode(b"INITRAMFS_KIB=2000\nROOT=/dev/vda3\nUPTIME_INIT=2.0\nUPTIME_SWITCH=2.4\n").decode()
    commands = ",".join(f'{{"status":{s},"from":9.00,"to":9.50,"out":"{out}"}}' for s in statuses)
    return (
        f'mkroot-verdict {nonce} {{"state":"running","ready":8.00,"uptime":10.00,"commands":[{commands}],'
        f'"memory":"","boot":"{boot}","mounts":"","analyze":"","failed":""}}'
    )


def judge(test: Test = TEST, timeout: float = 300) -> Judge:
    return Judge(test, NONCE, timeout)


def started(test: Test = TEST, timeout: float = 300) -> Judge:
    one = judge(test, timeout)
    for now, data in ((0.2, BIOS), (1.0, KERNEL), (3.0, SYSTEMD)):
        one.hear(data, now)
        one.look(now)
    assert one.kind is None
    return one


def test_passed_with_its_stages() -> None:
    one = started()
    one.port(BEGINS, 4.0)
    one.port(verdict(0, 1), 10.5)
    one.look(10.5)
    assert one.kind is None, "the console has not shown `login:` yet"
    one.hear(b"\r\nDebian GNU/Linux 13 box ttyS0\r\n\r\nbox login: ", 11.0)
    one.look(11.0)
    got = one.verdict("tcg")
    assert (got.kind, got.passed, got.seconds, got.accelerator) == ("passed", True, 11.0, "tcg")
    assert [(s.name, s.seconds) for s in got.stages] == [
        ("firmware", 0.2), ("loader", 0.2), ("kernel", 1.0), ("init", 1.0), ("initramfs", 1.0), ("initramfs", 1.0),
        ("initramfs", 1.0), ("userspace", 3.0), ("check", 4.0), ("up", 8.5), ("verdict", 10.5), ("login", 11.0),
    ]  # fmt: skip
    assert "[  OK  ] Started ssh.service." in got.console
    assert [c.command for c in got.commands] == ["true", "grep x"]


def test_a_quiet_console_leaves_the_stages_to_the_guest() -> None:
    one = judge(Test())
    one.port(BEGINS, 4.0)
    one.port(verdict(), 10.5)
    one.look(10.5)
    assert [(s.name, s.seconds) for s in one.verdict("tcg").stages] == [
        ("initramfs", 2.5), ("initramfs", 2.9), ("check", 4.0), ("up", 8.5), ("verdict", 10.5),
    ]  # fmt: skip


def test_a_command_failed() -> None:
    one = started()
    one.port(BEGINS, 4.0)
    one.port(verdict(0, 0), 10.0)
    one.look(10.0)
    assert one.kind == "failed"
    assert one.text == "`grep x` ended with status 0, 1 was wanted\n  words of the command"


def test_what_is_expected_may_come_late_but_not_never() -> None:
    one = started()
    one.port(verdict(0, 1), 10.0)
    one.look(10.0 + LINGER)
    assert one.kind is None
    one.look(10.1 + LINGER)
    assert (one.kind, one.text) == ("missing", "the console never shows `login:`")


def test_the_end_of_the_guest_leaves_no_more_to_expect() -> None:
    one = started()
    one.port(verdict(0, 1), 10.0)
    one.event(Event("SHUTDOWN", guest=True), 12.0)
    one.ended(0, "", 12.0)
    assert one.kind == "missing"


def test_what_is_rejected_ends_it_at_once() -> None:
    one = started()
    one.hear(b"[    4.0] Oo", 4.0)
    assert one.kind is None
    one.hear(b"ps: general protection fault", 4.1)
    assert (one.kind, one.text) == ("rejected", "the console shows `Oops`")


def test_text_between_escapes_is_text() -> None:
    one = started(Test(reject=("Failed to start",)))
    one.hear(b"[\x1b[0;1;31mFAILED\x1b[0m] Failed \x1b[1mto\x1b[0m start x.service", 4.0)
    assert one.kind == "rejected"


def test_a_panic_is_told_with_its_words_even_where_it_is_rejected() -> None:
    one = judge(Test(reject=("Kernel panic",)))
    one.hear(KERNEL + PANIC, 3.0)
    one.look(3.0 + PANIC_GRACE)
    assert one.kind is None, "the rest of its words is still to come"
    one.look(3.1 + PANIC_GRACE)
    assert (one.kind, one.text) == (
        "panic",
        "the kernel panics: VFS: Unable to mount root fs on unknown-block(0,0)",
    )


def test_who_gives_a_verdict_did_not_panic_but_is_rejected() -> None:
    one = judge(Test(reject=("Kernel panic",)))
    one.hear(KERNEL + PANIC, 3.0)
    one.port(verdict(), 3.5)
    one.look(3.5)
    assert one.kind == "rejected"
    two = judge(Test())
    two.hear(b"user: Kernel panic - not syncing: made up\r\n", 3.0)
    two.port(verdict(), 3.5)
    two.look(3.5)
    assert two.kind == "passed"


def test_timeout_says_what_is_lacking() -> None:
    one = started(timeout=20)
    one.load(20.0, 20.0)
    one.look(20.1)
    assert one.kind == "timeout"
    assert one.text == "no verdict within 20 s; the guest's check did not begin, the console does not show `login:`"


def test_a_guest_may_start_anew_once() -> None:
    one = started()
    one.event(RESET, 5.0)
    one.look(5.0)
    assert one.kind is None
    one.event(RESET, 9.0)
    one.look(9.0)
    assert (one.kind, one.text) == ("loop", "the guest started anew 2 times without a verdict")
    two = started()
    two.event(RESET, 5.0)
    two.event(Event("RESET", guest=False), 6.0)  # QEMU's own
    two.look(6.0)
    assert two.kind is None


def test_a_hang_is_silence_without_work() -> None:
    working = started()
    for second in range(4, 100):
        working.load(second * 0.9, second)
        working.look(second)
    assert working.kind is None
    idle = started()
    for second in range(4, int(4 + QUIET) + 2):
        idle.load(1.0 + second * 0.01, second)  # the timer's ticks
        idle.look(second)
    assert idle.kind == "hang"
    assert idle.text.startswith("no word and no work of the guest for 30 s; the guest's check did not begin")
    checking = started()
    checking.port(BEGINS, 4.0)
    checking.look(200)  # a command may sleep
    assert checking.kind is None


def test_powered_off_early() -> None:
    one = started()
    one.event(Event("SHUTDOWN", guest=True, reason="guest-shutdown"), 5.0)
    one.ended(0, "", 5.0)
    assert one.kind == "off"
    assert one.text == "the guest powered off without a verdict; the console does not show `login:`"
    two = started(Test())
    two.port(BEGINS, 4.0)
    two.event(Event("SHUTDOWN", guest=True, reason="guest-shutdown"), 5.0)
    two.ended(0, "", 5.0)
    assert (two.kind, two.text) == ("off", "the guest powered off before the check was through")


def test_qemu_died() -> None:
    one = judge()
    one.ended(1, "qemu: -drive: warning\nqemu: Could not open '/d': Permission denied", 0.1)
    assert one.kind == "died"
    assert one.text == "QEMU ended with status 1: qemu: -drive: warning; qemu: Could not open '/d': Permission denied"
    two = judge()
    two.ended(-9, "", 0.1)
    assert two.text == "QEMU ended by signal 9: it said nothing"
    three = judge()
    three.stopped("io-error", "", 3.0)
    assert (three.kind, three.text) == ("died", "QEMU has stopped the guest: io-error; it said nothing")


def test_the_console_cannot_forge_a_verdict() -> None:
    one = judge(Test())
    one.hear(verdict().encode() + b"\n", 1.0)
    one.port(verdict(nonce="guess"), 1.0)
    one.port("noise", 1.0)
    one.look(1.0)
    assert one.kind is None


def test_the_first_verdict_counts() -> None:
    one = judge(Test(run=(Check(cmd="true"),)))
    one.port(verdict(1), 1.0)
    one.port(verdict(0), 1.0)
    one.look(1.0)
    assert one.kind == "failed"


# ---- the console


def test_a_console_in_any_pieces_is_the_same() -> None:
    whole = BIOS + KERNEL + SYSTEMD + "grün login: ".encode()
    for size in (1, 2, 3, 7, len(whole)):
        console = Console()
        for at in range(0, len(whole), size):
            console.feed(whole[at : at + size], 1.0)
        assert console.text.endswith("grün login: ")
        assert "\x1b" not in console.text and "\r" not in console.text
        assert [s.name for s in console.stages] == [
            "firmware", "loader", "kernel", "init", "initramfs", "initramfs", "initramfs", "userspace", "login",
        ], size  # fmt: skip


def test_firmware_alone_is_no_proof_of_life() -> None:
    console = Console()
    console.feed(BIOS, 1.0)
    assert not console.alive
    console.feed(KERNEL, 1.0)
    assert console.alive


def test_a_console_without_end_is_cut() -> None:
    console = Console()
    for _ in range(20):
        console.feed(b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 10_000, 1.0)
    assert len(console.text) < 17 << 20


def test_clean_and_tail() -> None:
    assert clean("\x1b]0;title\x07a\x1b[1;31mb\x1b[0m\x1b7c\x1b(B\x0e\r") == "abc"
    assert tail("a\n\n  \nb\nc\n", 2) == "b\nc"
