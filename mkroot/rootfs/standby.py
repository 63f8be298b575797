"""The parent of a program that went on in a user namespace: it passes signals on, and ends as the program ended."""

from __future__ import annotations

import contextlib
import os
import signal

PASSED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGCONT,
    signal.SIGWINCH,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
_SI_KERNEL = 0x80  # si_code of a signal that the terminal made: the whole foreground group has it already


def stand_by(child: int) -> None:
    """Pass signals on, stop and go on with the child, and end as it ends; it does not return.

    The signals PASSED and SIGCHLD must be blocked since before the child was forked.
    """
    while True:
        info = signal.sigwaitinfo(PASSED | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _SI_KERNEL or info.si_signo == signal.SIGCONT:
                _send(child, info.si_signo)
            continue
        while True:
            pid, status = os.waitpid(-1, os.WUNTRACED | os.WNOHANG)
            if pid == 0:
                break
            if pid != child:
                continue
            if os.WIFSTOPPED(status):
                os.kill(os.getpid(), signal.SIGSTOP)
                _send(child, signal.SIGCONT)
                break
            _end_like(status)


def _send(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _end_like(status: int) -> None:
    if os.WIFSIGNALED(status):
        import resource

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child has left a core where one is wanted
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
