"""The architecture, as a test: imports point down, modules stay small, only the command line prints or exits."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mkroot

ROOT = Path(mkroot.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST = 425  # lines of a module; about 400 is when to split it by noun
# Domain names that may stand in an address: examples, and those that name a format or a page, not a mirror.
# 10.0.2.2 is the host of a machine, as its user network has it (QEMU).
HOSTS = re.compile(
    r"(?:.*\.)?example|127\.0\.0\.1|10\.0\.2\.2|json-schema\.org|in-toto\.io|slsa\.dev|(?:www|schemas?)\.[a-z0-9-]+\.org|[a-z-]+\.org"
)
ADDRESS = re.compile(r"\b(?:https?|ftp)://(?:[^\s/@\"'`]*@)?([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT.parent))


def test_imports_point_down_the_pipeline() -> None:
    code = "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says in one sentence what it is"
    assert text.count("\n") <= LONGEST
    if "cli" not in path.relative_to(ROOT).parts:
        assert not list(printing(tree)), "only mkroot.cli prints or exits"
    assert not list(decoding(tree)), "threads must not meet a type together: see mkroot.decoding"


def printing(tree: ast.AST) -> list[str]:
    """Return what in a module prints or exits, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "exit", "quit", "sys.exit", "sys.stdout.write", "sys.stderr.write"):
                found.append(f"{node.lineno}: {called}")
        elif isinstance(node, ast.Name) and node.id == "SystemExit":
            found.append(f"{node.lineno}: SystemExit")
    return found


def decoding(tree: ast.AST) -> list[str]:
    """Return what in a module has msgspec look at a type whenever it decodes, with its line."""
    return [
        f"{node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("msgspec.json.decode", "msgspec.msgpack.decode")
        and any(word.arg == "type" for word in node.keywords)
    ]


def test_what_decodes_is_seen() -> None:
    code = (
        "msgspec.json.decode(\n data,\n type=Kind,\n)\nmsgspec.msgpack.decode(data, type=Kind)\nfrom_json(data, Kind)"
    )
    assert decoding(ast.parse(code)) == ["1: msgspec.json.decode", "5: msgspec.msgpack.decode"]


def test_what_prints_is_seen() -> None:
    assert len(printing(ast.parse("print(1)\nsys.exit(2)\nraise SystemExit(3)\n"))) == 3
    assert not printing(ast.parse("pprint(1)\nos._exit(2)\n"))


@pytest.mark.parametrize("part", ["debian", "recipe", "resolve"])
def test_the_pure_middle_has_no_network_and_no_processes(part: str) -> None:
    for path in sorted((ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.partition(".")[0] for n in names} & {"socket", "requests", "subprocess", "urllib3", "ssl"}, (
                path
            )


def test_every_command_has_its_module() -> None:
    from mkroot.cli.main import COMMANDS
    from mkroot.cli.options import Parser

    for command, (module, _) in COMMANDS.items():
        found = importlib.import_module(f"mkroot.cli.{module}")
        parsers = Parser(prog="mkroot").add_subparsers()
        found.add(parsers)
        assert list(parsers.choices or ()) == [command]


def test_no_address_but_examples_stands_in_the_sources() -> None:
    """Mirrors are learnt from the user's system; none is built in, written down or shown."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    found = []
    for file in listed.stdout.split("\0"):
        path = ROOT.parent / file
        if path.is_file() and path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ".json", ".txt", ""):
            for at in ADDRESS.finditer(path.read_text("utf-8", "replace")):
                if not HOSTS.fullmatch(at[1]):
                    found.append(f"{file}: {at[0]}")
    assert not found
