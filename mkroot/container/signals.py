"""What a command finds of signals: nothing that Python or mkroot's own caller ignores."""
# ruff: noqa: SIM105  (contextlib costs more to import than all that is done here)

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs milliseconds more


def default_signals() -> None:
    """Take back what this Python ignores, and what was where mkroot was started (nohup)."""
    for number in range(1, _signal.NSIG):
        try:
            _signal.signal(number, _signal.SIG_DFL)
        except (OSError, ValueError):
            pass  # SIGKILL, SIGSTOP and those of the C library
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
