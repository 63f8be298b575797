"""`mkroot test`: boot what was built from a recipe, and take the guest's own verdict."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkroot.cli.guests import add_guest_options, number, parsed, prepared, runner
from mkroot.cli.options import add_recipe_options, options_of

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.recipe.model import Recipe
    from mkroot.vm.judge import Verdict
    from mkroot.vm.run import Run

LINES = 25  # of the console, shown when a guest fails


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "test",
        help="boot a recipe's system and take its own verdict",
        description="Boot under QEMU, without a terminal, what `mkroot build RECIPE` has made; have it run the "
        "recipe's `test` and end with its verdict: 0 where it passed, else 1. Nothing is changed on its disk.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file; - is standard input")
    parser.add_argument("--timeout", metavar="TIME", help="the most time until the verdict, such as 120 or 5m")
    parser.add_argument("--junit", metavar="FILE", help="write the verdict as JUnit XML")
    add_guest_options(parser)
    add_recipe_options(parser, online=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Test the recipe's system on each of its architectures; 0 where all passed, else 1."""
    from mkroot.build import open_recipe
    from mkroot.cli.terminal import print_json

    options: Options = options_of(args, out=Path(args.out))
    recipe = open_recipe(args.recipe, options)
    results = []
    for architecture in recipe.arch:
        verdict, told, console = _test(recipe, args, str(architecture), runner(args))
        results.append((str(architecture), verdict, told, console))
        if not args.json:
            _tell(f"{recipe.name} {architecture}", verdict, told, console)
    if args.json:
        print_json([_described(recipe, *one) for one in results])
    if args.junit is not None:
        from mkroot.cli.streams import target
        from mkroot.vm.junit import document

        suites = [(f"{recipe.name} {a} {told}", recipe.test, v) for a, v, told, _ in results]
        with target(args.junit) as f:
            f.write(document(suites))
    return 0 if all(v.passed for _, v, _, _ in results) else 1


def _test(recipe: Recipe, args: argparse.Namespace, architecture: str, how: Run) -> tuple[Verdict, str, Path]:
    """Boot one architecture's system; return the verdict, the machine in words and the console's file."""
    from mkroot.recipe.numbers import Duration, Size
    from mkroot.vm.guest import Guest
    from mkroot.vm.run import test

    machine, media = prepared(recipe, args.recipe, architecture, args)
    console = Path(args.console) if args.console else Path(args.out) / str(recipe.name) / f"console-{architecture}.log"
    if args.console and len(recipe.arch) > 1:
        console = console.with_name(f"{console.stem}-{architecture}{console.suffix}")
    console.parent.mkdir(parents=True, exist_ok=True)
    guest = Guest(
        machine=machine,
        memory=parsed(Size, args.memory, "--memory") if args.memory else recipe.test.memory,
        cpus=number(args.cpus, "--cpus", 1, 64),
        disk=media.disk,
        cdrom=media.cdrom,
        usb=media.usb,
        direct=media.direct,
    )
    timeout = parsed(Duration, args.timeout, "--timeout") if args.timeout else None
    return test(guest, recipe.test, how, console, timeout), f"{machine.name} {media.kind}", console


def _tell(name: str, verdict: Verdict, machine: str, console: Path) -> None:
    """Print the stages and the verdict; on failure, the end of the console on standard error."""
    from mkroot.cli.terminal import amount, seconds, table
    from mkroot.errors import printable

    rows = [(f"{s.seconds:.2f} s", s.name, printable(s.note)) for s in verdict.stages]
    sys.stdout.write(table(rows, right=(0,), indent="  "))
    told = verdict.told
    if told is not None:
        if told.boot.get("INITRAMFS_KIB", "").isdigit():
            size = int(told.boot["INITRAMFS_KIB"]) * 1024
            sys.stdout.write(f"  memory of the initramfs: {amount(size)}, given back\n")
        mounted = f"mounted on {', '.join(told.mounted)}" if told.mounted else "not mounted"
        sys.stdout.write(f"  boot file system: {printable(mounted)}\n")
        if told.memory:
            sys.stdout.write(f"  memory: {amount(told.available)} of {amount(told.memory)} available\n")
        if told.state:
            units = f" ({', '.join(told.failed)})" if told.failed else ""
            sys.stdout.write(f"  systemd: {printable(told.state + units)}\n")
        if told.analyze:
            sys.stdout.write(f"  {printable(told.analyze)}\n")
        good = [(c.command, f"status {c.status}", seconds(c.seconds)) for c in told.commands if c.good]
        sys.stdout.write(table(good, indent="  "))
    sys.stdout.flush()
    if not verdict.passed:
        from mkroot.vm.console import tail

        end = printable(tail(verdict.console, LINES))
        sys.stderr.write(f"the console's last lines ({console}):\n{end}\n" if end else "the console is empty\n")
    word = "passed" if verdict.passed else f"{verdict.kind}: {printable(verdict.text)}"
    sys.stderr.flush()
    sys.stdout.write(f"{name} on {machine} ({verdict.accelerator}), {seconds(verdict.seconds)}: {word}\n")


def _described(recipe: Recipe, architecture: str, verdict: Verdict, machine: str, console: Path) -> dict[str, object]:
    import msgspec

    whole = msgspec.to_builtins(verdict)
    del whole["console"]
    name, medium = machine.split(" ")
    return {
        "name": str(recipe.name),
        "architecture": architecture,
        "machine": name,
        "medium": medium,
        "verdict": whole.pop("kind"),
        "passed": verdict.passed,
        **whole,
        "console": str(console),
    }
