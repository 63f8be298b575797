"""`mkroot check`: tell every fault of recipes that can be found without the network."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import TYPE_CHECKING

from mkroot.errors import Faults, MkrootError, RecipeError, UsageError, masked_address, printable

if TYPE_CHECKING:
    from mkroot.recipe.model import Recipe


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "check",
        help="tell every fault of a recipe",
        description="Read recipes and tell every fault that can be found without the network: in the files, "
        "in the keys, and between keys that contradict each other.",
    )
    parser.add_argument(
        "recipes", nargs="+", metavar="RECIPE", help="a recipe's file, or a bundle; - is standard input"
    )
    parser.add_argument(
        "-D", dest="define", action="append", default=[], metavar="NAME=VALUE", help="give a variable another value"
    )
    parser.add_argument("--arch", metavar="A", help="see that the recipe builds for this architecture")
    parser.add_argument("--mirror", metavar="URL", help="taken as the other commands take it; nothing is fetched")
    parser.add_argument("--json", action="store_true", help="print the faults as JSON on standard output")
    parser.set_defaults(run=run)


def definitions(given: list[str]) -> dict[str, str]:
    r"""Return what the values of `-D` define; raises UsageError where one is not NAME=VALUE.

    `\,` is a comma, here as in a build of several values.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"`-D {text}` is not NAME=VALUE", hint="write `-D release=jammy`")
        found[name] = value.replace("\\,", ",")
    return found


def run(args: argparse.Namespace) -> int:
    """Check the recipes; 0 where none has a fault, else 1."""
    from mkroot.bundle.form import is_bundle
    from mkroot.recipe.load import load

    defines = definitions(args.define)
    if args.mirror:
        _mirror(args.mirror)
    report = []
    for path in args.recipes:
        faults: list[MkrootError] = []
        try:
            recipe = _bundled(path, defines) if is_bundle(path) else load(path, defines)
            if args.arch and args.arch not in recipe.arch:
                raise Faults([_foreign(args.arch, path, recipe.arch)])
        except Faults as e:
            faults = list(e.faults)
        except MkrootError as e:
            faults = [e]
        report.append((path, faults))
    if args.json:
        json.dump([_described(path, faults) for path, faults in report], sys.stdout, indent=2, sort_keys=True)
        sys.stdout.write("\n")
    else:
        for path, faults in report:
            _tell(path, faults)
    return 1 if any(faults for _, faults in report) else 0


def _bundled(path: str, defines: dict[str, str]) -> Recipe:
    """Return the recipe of a bundle, which is seen to be whole; raises MkrootError."""
    from mkroot.build import Options
    from mkroot.cli.options import unsealed
    from mkroot.recipe.load import load

    with unsealed(path, Options(defines=defines)) as (recipe, options):
        return load(recipe, options.defines)


def _foreign(arch: str, path: str, known: tuple[str, ...]) -> MkrootError:
    return RecipeError(
        f"`--arch {arch}`: the recipe builds for {', '.join(known)}",
        where=path,
        hint=f"add `{arch}` to its key `arch`",
    )


def _mirror(url: str) -> None:
    from mkroot.recipe.values import Refused, Url

    try:
        Url.parse(url)
    except Refused as e:
        raise UsageError(f"`--mirror {masked_address(url)}`: {e}") from None


def _described(path: str, faults: list[MkrootError]) -> dict[str, object]:
    return {"recipe": path, "ok": not faults, "faults": [_fault(fault) for fault in faults]}


def _fault(fault: MkrootError) -> dict[str, object]:
    place = re.fullmatch(r"(.*):(\d+):(\d+)", fault.where or "", re.DOTALL)
    return {
        "file": place[1] if place else fault.where,
        "line": int(place[2]) if place else None,
        "column": int(place[3]) if place else None,
        "message": fault.what,
        "hint": fault.hint,
    }


def _tell(path: str, faults: list[MkrootError]) -> None:
    name = "<stdin>" if path == "-" else path
    if not faults:
        print(f"{name}: ok", file=sys.stderr)
        return
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{printable(name)}: {len(faults)} fault{'s' if len(faults) > 1 else ''}", file=sys.stderr)
