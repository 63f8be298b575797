"""What the commands' parsers share: errors with the nearest name, and the options of all that read a recipe."""

from __future__ import annotations

import argparse
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


def add_recipe_options(parser: argparse.ArgumentParser, *, online: bool = True) -> None:
    """Add what every command that reads a recipe takes; `online`: those that may ask the archives, too."""
    parser.add_argument(
        "-D", dest="define", action="append", default=[], metavar="NAME=VALUE", help="give a variable another value"
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


def options_of(args: argparse.Namespace, **more: Any) -> Options:
    """Return the options of a command that reads a recipe; raises UsageError."""
    from mkroot.build import Options
    from mkroot.cli.check import definitions
    from mkroot.recipe.values import Refused, Url

    if args.mirror is not None:
        try:
            Url.parse(args.mirror)
        except Refused as e:
            raise UsageError(f"`--mirror`: {e}") from None
    return Options(
        defines=definitions(args.define),
        architectures=tuple(dict.fromkeys(args.arch)),
        mirror=args.mirror,
        offline=getattr(args, "offline", False),
        allow_expired=getattr(args, "allow_expired", False),
        **more,
    )
