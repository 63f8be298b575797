"""Tells what went wrong: one message an error, with its place and the next step, and the exit status."""

from __future__ import annotations

import errno
import os
import sys

from mkroot.cli.terminal import labelled
from mkroot.errors import Faults, MkrootError, UsageError, masked, printable, shortened

WORDS = {
    errno.ENOSPC: ("the disk is full", "free some space; `mkroot cache size` tells what the store takes"),
    errno.EDQUOT: ("the disk quota is used up", "free some space; `mkroot cache size` tells what the store takes"),
    errno.EACCES: ("permission denied", "make it readable, or writable, for this user"),
    errno.EPERM: ("operation not permitted", "`mkroot doctor` tells what this host allows"),
    errno.EROFS: ("the file system is read-only", "choose another folder with `-o`, or another MKROOT_STORE"),
    errno.EMFILE: ("too many open files", "raise the limit with `ulimit -n`"),
    errno.ENFILE: ("too many open files on this host", None),
    errno.ENOMEM: ("not enough memory", None),
    errno.EIO: ("the disk reports an input or output error", "see `dmesg`"),
    errno.ENOENT: ("there is no such file", None),
    errno.ENOTDIR: ("a part of the path is not a folder", None),
    errno.EISDIR: ("it is a folder", None),
    errno.ENAMETOOLONG: ("the name is too long", None),
    errno.ELOOP: ("too many links on the way", None),
}


def tell(error: BaseException) -> int:
    """Print an error on standard error; return the exit status."""
    if isinstance(error, BrokenPipeError) and _reader_gone():
        # The reader has all it wanted (`mkroot plan … | head`): the status that SIGPIPE would have given.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    if isinstance(error, MkrootError):
        tell_error(error)
        return 2 if isinstance(error, UsageError) else 1
    if isinstance(error, OSError) and error.errno in WORDS:
        what, hint = WORDS[error.errno]
        if error.errno == errno.ENOENT and not error.filename:
            if not _folder_gone():
                return _internal(error)
            what, hint = "the current folder is gone", "change to one that is there"
        where = None if error.filename is None else os.fsdecode(error.filename)
        tell_error(MkrootError(what, where=where, hint=hint))
    elif isinstance(error, MemoryError):
        tell_error(MkrootError("not enough memory"))
    else:
        return _internal(error)
    _trace(error)
    return 1


def tell_error(error: MkrootError) -> None:
    """Print an error, or each of several, on standard error."""
    for one in error.faults if isinstance(error, Faults) else (error,):
        place = f"{one.where}: " if one.where else ""
        sys.stderr.write(labelled("error", f"{place}{one.what}"))
        if one.hint:
            sys.stderr.write(labelled("hint", one.hint))


def _internal(error: BaseException) -> int:
    text = shortened(printable(masked(str(error))), 2000)
    name = type(error).__name__
    sys.stderr.write(labelled("error", f"internal error: {name}: {text}" if text else f"internal error: {name}"))
    sys.stderr.write(labelled("hint", "please report it, with what MKROOT_DEBUG=1 shows"))
    _trace(error)
    return 1


def _trace(error: BaseException) -> None:
    if os.environ.get("MKROOT_DEBUG") == "1":
        import traceback

        sys.stderr.write(masked("".join(traceback.format_exception(error))))


def _folder_gone() -> bool:
    """Tell whether the current folder was removed."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _reader_gone() -> bool:
    """Tell whether standard output is a pipe that nobody reads."""
    import select

    try:
        poll = select.poll()
        poll.register(1, 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except OSError:
        return False
