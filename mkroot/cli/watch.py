"""`mkroot build --watch-table`: the builds of a run on a terminal's screen, while they are made."""

from __future__ import annotations

import io
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TextIO

from mkroot.cli.board import View, board
from mkroot.cli.terminal import is_terminal
from mkroot.fleet.grid import Grid, grid
from mkroot.fleet.model import RUNNING, Row

if TYPE_CHECKING:
    from rich.console import Console

EVERY = 0.25  # seconds from one picture to the next


class Screen:
    """The rows on the second screen of the terminal that standard error is: `with Screen() as screen: …`.

    What the program writes meanwhile is held, and written when the first screen is back. A thread draws: times go on
    though nothing happens, and a signal that ends the program gives the terminal back at once, whatever still runs.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._console: Console | None = None
        self._held: dict[str, _Held] = {}
        self._kept: list[tuple[TextIO, str]] = []
        self._grid: Grid | None = None
        self._began: dict[int, float] = {}
        self._start = time.monotonic()

    def __enter__(self) -> Screen:
        from rich.console import Console

        self._start = time.monotonic()
        self._console = Console(file=sys.stderr, highlight=False)
        self._hold()
        self._open()
        signal.signal(signal.SIGTSTP, self._stopped)
        self._thread = threading.Thread(target=self._draw, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        if self._thread is not None:
            self._thread.join()
        for name, held in self._held.items():
            setattr(sys, name, held.stream)
        for stream, text in self._kept:
            stream.write(text)
            stream.flush()
        self._held, self._kept = {}, []

    def change(self, index: int, row: Row) -> None:
        """Take note of what became of a row; called from one thread."""
        with self._lock:
            before = self._rows.get(index)
            self._rows[index] = row
            if before is None or before.job != row.job:
                self._grid = None
            if row.state == RUNNING and (before is None or before.state != RUNNING):
                self._began[index] = time.monotonic()

    def _hold(self) -> None:
        for name in ("stderr", "stdout"):
            stream = getattr(sys, name)
            if is_terminal(stream):
                self._held[name] = _Held(stream, self._kept)
                setattr(sys, name, self._held[name])

    def _open(self) -> None:
        if self._console is not None:
            self._console.set_alt_screen(True)
            self._console.show_cursor(False)

    def _close(self) -> None:
        with self._lock:
            if self._console is not None:
                self._console.set_alt_screen(False)
                self._console.show_cursor(True)

    def _draw(self) -> None:
        from mkroot.cli.main import ending

        try:
            while not self._ended.wait(EVERY) and not ending():
                with self._lock:
                    self._picture()
            self._close()
        except OSError:
            pass  # the terminal is gone

    def _picture(self) -> None:
        from rich.console import Group

        if self._console is None or not self._rows:
            return
        rows = [self._rows[n] for n in sorted(self._rows)]
        self._grid = self._grid or grid([row.job for row in rows])
        now = time.monotonic()
        view = View(
            rows=rows,
            grid=self._grid,
            began=self._began,
            now=now,
            elapsed=now - self._start,
            ascii=not self._console.encoding.startswith("utf"),
        )
        size = self._console.size
        self._console.update_screen(Group(*board(view, size.width, size.height)))

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        """Give the terminal back while the program is stopped (Ctrl-Z)."""
        with self._lock:
            self._close()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, self._stopped)  # here the shell has it go on
            self._open()


class _Held(io.TextIOBase):
    """Stands for a terminal, and keeps what is written."""

    def __init__(self, stream: TextIO, kept: list[tuple[TextIO, str]]) -> None:
        self.stream = stream
        self._kept = kept

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The terminal's."""
        return self.stream.encoding

    def isatty(self) -> bool:
        """Whoever asks may colour what is shown later."""
        return True

    def write(self, text: str) -> int:
        """Keep a text."""
        self._kept.append((self.stream, text))
        return len(text)
