"""What the commands' parsers share: errors with the nearest name, and the options of all that read a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from mkroot.errors import UsageError

if TYPE_CHECKING:
    from mkroot.build import Options


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError where the command line is wrong, with the nearest name."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # a script's `--loc` must not change its meaning with a later option
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(_worded(message), hint=f"`{self.prog} --help` shows the options")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; what is not known is an error of this parser, which knows its own options' names."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self._refuse(rest[0])
        for action in self._actions:
            given = getattr(found, action.dest, None)
            if action.option_strings or action.nargs == argparse.REMAINDER:
                continue
            if "" in (given if isinstance(given, list) else [given]):  # most likely a script's variable without a value
                self.error(f"{action.metavar} is empty")
        return found, rest

    def _refuse(self, word: str) -> NoReturn:
        import difflib

        if not word.startswith("-"):
            raise UsageError(f"unexpected argument `{word}`", hint=f"`{self.prog} --help` shows what it takes")
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name, list(self._option_string_actions), 1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"unknown option `{name}`", hint=f"{hint}`{self.prog} --help` shows the options")


def _worded(message: str) -> str:
    """Return argparse's words as ours."""
    prefix = "the following arguments are required: "
    return f"missing: {message.removeprefix(prefix)}" if message.startswith(prefix) else message


def add_recipe_options(parser: argparse.ArgumentParser, *, online: bool = True, values: bool = False) -> None:
    """Add what every command that reads a recipe takes.

    online: those that may ask the archives, too. values: `-D` takes several of a variable.
    """
    parser.add_argument(
        "-D",
        dest="define",
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE...]" if values else "NAME=VALUE",
        help="give a variable another value" + ("; with several, one build each" if values else ""),
    )
    parser.add_argument(
        "--arch", action="append", default=[], metavar="A", help="for this architecture only; may be repeated"
    )
    parser.add_argument("--mirror", metavar="URL", help="the distribution's mirror (http, https or file)")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    if online:
        parser.add_argument("--offline", action="store_true", help="use only what the store holds")
        parser.add_argument(
            "--allow-expired", action="store_true", help="accept a Release whose Valid-Until has passed"
        )


def utf8(text: str, option: str) -> str:
    """Return an option's value that goes into JSON; raises UsageError where it is no UTF-8 text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"`{option} {text}` is not UTF-8 text") from None
    return text


def options_of(args: argparse.Namespace, **more: Any) -> Options:
    """Return the options of a command that reads a recipe; raises UsageError."""
    from mkroot.build import Options
    from mkroot.cli.check import definitions
    from mkroot.recipe.values import Arch, Refused, Url

    shown = ""
    try:
        for text in args.arch:
            shown = f"--arch {text}"
            Arch.parse(text)
        if args.mirror is not None:
            shown = "--mirror"  # the address may hold a password
            Url.parse(args.mirror)
    except Refused as e:
        raise UsageError(f"`{shown}`: {e}", hint=e.hint) from None
    return Options(
        defines=definitions(args.define),
        architectures=tuple(dict.fromkeys(args.arch)),
        mirror=args.mirror,
        offline=getattr(args, "offline", False),
        allow_expired=getattr(args, "allow_expired", False),
        **more,
    )


NO_MIRROR = "http://mirror.example"  # of a bundle whose image is told of none: nothing is fetched


@contextmanager
def unsealed(recipe: str, options: Options) -> Iterator[tuple[str, Options]]:
    """Yield a recipe's path and its options; those of a bundle as long as it is open.

    A bundle is built from its lock, offline, and apt in the image is told the mirror that the bundle names unless the
    command line names one. Raises ArtifactError, UsageError.
    """
    from mkroot.bundle.form import is_bundle

    if not is_bundle(recipe):
        yield recipe, options
        return
    import os

    import msgspec

    from mkroot.bundle.unpack import opened
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    if options.lock == "none":
        raise UsageError("a bundle is built from its lock", hint="leave `--no-lock` out")
    store = Store(default_root(dict(os.environ)))
    with using(store), opened(store, recipe, options.defines) as bundle:
        index = bundle.index
        written = (index.mirror, index.security) if index.mirror and options.mirror is None else None
        yield (
            bundle.recipe,
            msgspec.structs.replace(
                options,
                lock="locked",
                offline=True,
                mirror=options.mirror or index.mirror or NO_MIRROR,
                written=written,
                defines={**index.variables, **options.defines},
                architectures=options.architectures or index.architectures,
            ),
        )
