"""The user's own terminal while a command has it: raw, its size passed on, and afterwards as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Iterator, Sequence

_SIZE = struct.Struct("HHHH")  # struct winsize


def size() -> tuple[int, int]:
    """Return rows and columns of the terminal that mkroot has, or 24 and 80."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
            if rows and columns:
                return rows, columns
    return 24, 80


def resize(fd: int, to: tuple[int, int]) -> None:
    """Give a terminal a size; its foreground processes hear of it."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, _SIZE.pack(*to, 0, 0))


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Have a terminal pass every byte on as it is typed, Ctrl-C too; nothing happens to what is no terminal."""
    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return
    changed = termios.tcgetattr(fd)
    # cfmakeraw(3)
    changed[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    changed[1] &= ~termios.OPOST
    changed[2] = changed[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    changed[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    # A background process that changes its terminal is stopped; it may do so while SIGTTOU is blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, changed)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def signals(numbers: Sequence[int]) -> Iterator[int]:
    """Yield a descriptor from which the numbers of signals that arrive can be read, a byte each.

    One that was ignored (nohup(1)) stays so. Those that the caller has blocked meanwhile are let through here alone.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    before = {}
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGWINCH:
            before[number] = signal.signal(number, lambda number, frame: None)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    try:
        yield read
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(read)
        os.close(write)
