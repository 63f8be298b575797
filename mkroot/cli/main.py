"""The console script: picks the command's module, and turns whatever happens into a message and an exit status."""

from __future__ import annotations

import os
import sys

import mkroot

# command: (module in mkroot.cli, one line of help). Only the chosen command's module is imported.
COMMANDS = {
    "build": ("build", "build recipes: root, image and other outputs"),
    "lock": ("lock", "make or renew recipes' locks"),
    "outdated": ("outdated", "tell which locks an update would change, and which of it are security fixes"),
    "check": ("check", "tell every fault of a recipe"),
    "plan": ("plan", "show what a build would install"),
    "size": ("size", "show where the bytes come from"),
    "why": ("why", "show every chain that brings a package"),
    "why-not": ("why_not", "show what keeps a package out, and what would bring it"),
    "explain": ("explain", "tell what made a file, down to the archive's key"),
    "diff": ("diff", "tell two locks, trees or images apart, or what a container changed"),
    "sbom": ("sbom", "write a bill of materials (SPDX, CycloneDX)"),
    "verify": ("verify", "build again from the lock and compare every artifact"),
    "bundle": ("bundle", "write one file with everything that a build needs"),
    "boot": ("boot", "start a system in QEMU, its console on the terminal"),
    "test": ("test", "start a system in QEMU and take its own verdict"),
    "images": ("images", "list the images of the store"),
    "history": ("history", "show how an image's layers came to be"),
    "inspect": ("inspect", "show an image's config, layers and tags, or a container"),
    "commit": ("commit", "make an image of a container"),
    "tag": ("tag", "give an image another name"),
    "rmi": ("rmi", "remove images"),
    "rebase": ("rebase", "put an image's own layers on a newer parent"),
    "relayer": ("relayer", "cut and compress an image's layers in another way"),
    "login": ("login", "log in to a registry"),
    "logout": ("logout", "forget the login of a registry"),
    "push": ("push", "store an image in a registry"),
    "pull": ("pull", "fetch an image from a registry"),
    "tags": ("tags", "list the tags of a repository in a registry"),
    "cp": ("cp", "copy files into or out of a container"),
    "import": ("import_", "make an image of a root's tar archive"),
    "export": ("export", "write a container's or an image's tree as a tar archive"),
    "save": ("save", "write images into an archive"),
    "load": ("load", "take images from an archive"),
    "run": ("run", "run a command in a new container of an image"),
    "ps": ("ps", "list the containers"),
    "start": ("start", "run a container's command again"),
    "stop": ("stop", "end containers that run"),
    "kill": ("kill", "send a signal to containers that run"),
    "wait": ("wait", "wait until containers have ended"),
    "exec": ("exec", "run one more command in a container that runs"),
    "logs": ("logs", "show what a container's command wrote"),
    "rm": ("rm", "remove containers"),
    "worker": ("worker", "do steps for `mkroot build --dask`"),
    "cache": ("cache", "list, measure, prune or verify the store"),
    "doctor": ("doctor", "tell what this host can do, and what to install"),
    "schema": ("schema", "print the JSON Schema of recipes"),
}
USAGE = "usage: mkroot COMMAND [OPTION...] [ARGUMENT...]"
_signals: list[int] = []  # that asked for an end
SECONDS = 1.8  # from a signal to the end, whatever still runs


class Terminated(BaseException):
    """A signal that asks the program to end. number: which one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def entry() -> None:
    """Run the command line of this process and exit with its status."""
    argv = sys.argv[1:]
    if argv == ["--version"]:  # before anything is imported
        sys.exit(_finish(_say(f"mkroot {mkroot.__version__}\n")))
    _listen()
    _exit(main(argv))


def main(argv: list[str]) -> int:
    """Run one command line and return its exit status; whatever goes wrong is told on standard error."""
    _prepare_streams()
    try:
        return _finish(_dispatch(argv))
    except SystemExit as e:  # argparse after --help
        return _finish(e.code if isinstance(e.code, int) else 1)
    except KeyboardInterrupt:
        return 130
    except Terminated as e:
        return 128 + e.number
    except BaseException as e:
        if _signals:  # one that came in the middle of an import leaves it half-done: what follows is no fault
            return 128 + _signals[0]
        from mkroot.cli.failure import tell

        return tell(e)


def _dispatch(argv: list[str]) -> int:
    if not argv:
        sys.stderr.write(f"{USAGE}\n\n{_commands()}")
        return 2
    name = argv[0]
    if name in ("-h", "--help"):
        return _say(_help())
    if name in ("-V", "--version"):
        return _say(f"mkroot {mkroot.__version__}\n")
    if name not in COMMANDS:
        _unknown(name)
    import importlib

    _import_msgspec()
    from mkroot.cli.options import Parser

    module = importlib.import_module(f"mkroot.cli.{COMMANDS[name][0]}")
    parser = Parser(prog="mkroot")
    module.add(
        parser.add_subparsers(prog="mkroot", dest="command", metavar="COMMAND")
    )  # prog: argparse need not format
    args = parser.parse_args(argv)
    return int(args.run(args))


def _import_msgspec() -> None:
    """Import msgspec with the standard library's typing.

    It would take typing_extensions where another library has brought it along, which doubles the time of its import.
    """
    if "typing_extensions" not in sys.modules:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # an import of it fails at once
        try:
            import msgspec  # noqa: F401
        finally:
            del sys.modules["typing_extensions"]


def _unknown(name: str) -> None:
    import difflib

    from mkroot.errors import UsageError

    kind = "option" if name.startswith("-") else "command"
    near = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version"], 1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise UsageError(f"unknown {kind} `{name}`", hint=f"{hint}`mkroot --help` lists the commands")


def _commands() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = ["commands:"]
    lines += [f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([*lines, ""])


def _help() -> str:
    return f"""{USAGE}

mkroot builds small Linux systems from a recipe: a rootfs, a base image, and what else the recipe asks for.

{_commands()}
options:
  -h, --help     show this; `mkroot COMMAND --help` shows a command's options
  -V, --version  show the version

environment:
  MKROOT_STORE            what is kept between builds (default: the user's cache folder)
  MKROOT_CONFIG           the configuration, with mirrors (default: the user's configuration folder)
  MKROOT_MIRROR_<DISTRO>  the mirror of a distribution, such as MKROOT_MIRROR_DEBIAN
  MKROOT_RUNTIME          what starts a container's commands: `own` (default) or `crun`
  SOURCE_DATE_EPOCH       the date, in seconds since 1970, that no file in an output is younger than
  NO_COLOR                no colours on the terminal
  MKROOT_DEBUG=1          show the traceback of an internal error

exit status: 0, 1 where something failed and was told, 2 where the command line is wrong
"""


def _say(text: str) -> int:
    if sys.stdout is not None:
        sys.stdout.write(text)
    return 0


def _prepare_streams() -> None:
    """Have every character printable, whatever the locale's encoding is, and closed streams swallow what they get."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # it stays open until the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _finish(status: int) -> int:
    """Write out what is buffered, so that a full disk or a closed pipe is noticed while it can still be told."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except OSError as e:
        from mkroot.cli.failure import tell

        return tell(e)


def _exit(status: int) -> None:
    """End the process. Threads that still wait for something do not hold it up."""
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            pass
    os._exit(status)


def _listen() -> None:
    """Have the signals that ask for an end raise an exception, so that everything under way cleans up."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1), or the shell's background job
            signal.signal(number, _interrupted)


def ending() -> bool:
    """Tell whether a signal has asked for the end."""
    return bool(_signals)


def _interrupted(number: int, _: object) -> None:
    _signals.append(number)
    import signal
    import threading
    import time

    def end() -> None:
        time.sleep(SECONDS)
        os._exit(128 + number)

    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)  # the clean-up is not interrupted again; the thread below bounds it
    threading.Thread(target=end, daemon=True).start()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)
