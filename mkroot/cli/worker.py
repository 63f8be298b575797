"""`mkroot worker`: tell what this machine can do, and become a worker of a Dask cluster."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "worker",
        help="do steps for `mkroot build --dask`",
        description="Tell what this machine can do, and become a worker of a Dask cluster (`dask worker`), which does "
        "steps for `mkroot build --dask ADDRESS`. It needs nothing but its store: what machines share comes and goes "
        "through the remote store that the client names.",
    )
    parser.add_argument(
        "address", metavar="ADDRESS", help="the scheduler's, tcp://HOST:PORT or tls://HOST:PORT, or its scheduler file"
    )
    parser.add_argument("--store", metavar="DIR", help="what is kept between steps (default: MKROOT_STORE)")
    parser.add_argument(
        "--jobs", type=_count, metavar="N", help="how many steps at a time (default: one a processor, as memory allows)"
    )
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 1 to 1024")
    return int(text)


def run(args: argparse.Namespace) -> NoReturn:
    """Become the worker; raises ClusterError where Dask is missing or this machine cannot do a step."""
    import importlib.util
    import socket

    from mkroot.errors import ClusterError
    from mkroot.fleet import abilities
    from mkroot.fleet.connection import is_file
    from mkroot.fleet.local import fitting

    if importlib.util.find_spec("distributed") is None:
        raise ClusterError("Dask is not installed", hint="install it: `pip install 'mkroot[fleet]'`")
    file = is_file(args.address)
    if file and not os.path.isfile(args.address):
        raise ClusterError("there is no such scheduler file", where=args.address, hint="the scheduler writes one")
    environ = {**os.environ, **({"MKROOT_STORE": os.path.abspath(args.store)} if args.store else {})}
    found = abilities.asked(environ)
    name = f"{socket.gethostname()}-{found.machine[:8]}"
    for line in abilities.told(found):
        sys.stderr.write(f"{name} {line}\n")
    sys.stderr.flush()
    if found.fault is not None:
        raise ClusterError("this machine cannot be a worker", hint=found.fault.hint or None)
    # A step's memory is its own process's, which Dask's limit would not count. Profiling would ask a hundred times a
    # second what a thread does that waits for such a process.
    environ.setdefault("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "False")
    words = ["--nworkers", "1", "--nthreads", str(args.jobs or fitting()), "--memory-limit", "0", "--no-dashboard"]
    words += ["--name", name]
    words += ["--scheduler-file", args.address] if file else [args.address]
    os.execve(sys.executable, [sys.executable, "-P", "-m", "distributed.cli.dask_worker", *words], environ)
