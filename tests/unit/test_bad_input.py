"""Wrong command lines, files and surroundings: each told in one message that names the place, none by a traceback."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mkroot.cli.main import COMMANDS
from tests.fuzz.corpus import PLACE
from tests.unit.commands import PROGRAM, Done
from tests.unit.forked import Forked

pytestmark = pytest.mark.counts("bad-input")

RECIPE = """version: 1
name: r
distro: debian
suite: trixie
arch: [amd64]
mirror: file:///nowhere
packages: {variant: none, include: [tool]}
configure: none
outputs: [tar]
"""
SECRET = "root:x:0:0:root:/root:/bin/bash"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    folder = tmp_path_factory.mktemp("input")
    binary = bytes(range(256)) * 20
    for name, data in {
        "r.yaml": RECIPE.encode(),
        "locked.yaml": RECIPE.encode(),
        "locked.lock": b"",
        "empty.yaml": b"",
        "binary.yaml": binary,
        "utf16.yaml": RECIPE.encode("utf-16"),
        "large.yaml": b"#" * (2 << 20),
        "nul.yaml": RECIPE.encode() + b"# \0\n",
        "escape.yaml": RECIPE.encode() + b"# \x1b[2J\n",
        "file": b"x",
        "secret.yaml": SECRET.encode() + b"\n",
        "empty.tar": b"",
        "binary.tar": binary,
        "cut.tar": gzip.compress(b"x" * 5000)[:20],
        "short.tar": (PLACE / "tar/bad-cut").read_bytes(),
        "good.tar": (PLACE / "tar/good-file").read_bytes(),
    }.items():
        (folder / name).write_bytes(data)
    (folder / "folder.yaml").mkdir()
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "dangling.yaml").symlink_to("nowhere")
    (folder / "foreign").mkdir()
    (folder / "foreign/format").write_text("99\n")
    program = Forked(folder)
    made = program("import", "good.tar", "a:1")
    assert made.status == 0, made.err
    yield program
    program.close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"home"}


def told(
    program: Forked, *arguments: str, says: str, statuses: tuple[int, ...], stdin: str = "", **environ: str
) -> Done:
    """Run a command that must fail; see that it says why, in words, and leaves nothing behind."""
    before = names(program.folder)
    done = program(*arguments, stdin=stdin, **environ)
    assert done.status in statuses, (done.status, done.err)
    assert says in done.err, done.err
    assert done.out == "", "what fails writes no data"
    for word in ("Traceback", "internal error", "\x1b", "\0", 'File "'):
        assert word not in done.err, done.err
    assert len(done.err) < 20_000
    assert names(program.folder) == before, "something is left over"
    assert not list((program.folder / "store/tmp").glob("*")), "something is left over in the store"
    return done


# ---- command lines

WORDS = {  # what makes each command's arguments complete
    "build": ["r.yaml"], "lock": ["r.yaml"], "check": ["r.yaml"], "plan": ["r.yaml"], "size": ["r.yaml"],
    "why": ["r.yaml", "tool"], "why-not": ["r.yaml", "tool"], "explain": ["a:1", "/x"], "diff": ["a:1"],
    "sbom": ["r.yaml"], "verify": ["r.yaml"], "bundle": ["r.yaml"], "boot": ["r.yaml"], "test": ["r.yaml"],
    "outdated": ["r.yaml"], "worker": ["tcp://127.0.0.1:1"],
    "history": ["a:1"], "inspect": ["a:1"], "commit": ["x"], "tag": ["a:1", "b:1"], "rmi": ["b:1"],
    "rebase": ["a:1", "--onto", "b:1"], "relayer": ["a:1", "b:1", "--by", "single"],
    "login": ["registry.example"], "logout": ["registry.example"],
    "push": ["registry.example/a"], "pull": ["registry.example/a"], "tags": ["registry.example/a"], "cp": ["x:/a", "b"],
    "import": ["good.tar"], "export": ["a:1"], "save": ["a:1", "x.tar"], "run": ["a:1"], "start": ["x"], "stop": ["x"],
    "kill": ["x"], "wait": ["x"], "exec": ["x", "sh"], "logs": ["x"], "rm": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_an_option_that_is_none(program: Forked, command: str) -> None:
    arguments = [command, "--nonsense=\x1b[2J", *WORDS.get(command, ["list"] if command == "cache" else [])]
    done = told(program, *arguments, says="unknown option `--nonsense`", statuses=(2,))
    assert f"`mkroot {command} --help`" in done.err or f"`mkroot {command} list --help`" in done.err


@pytest.mark.parametrize("command", sorted(WORDS))
def test_an_argument_that_is_missing(program: Forked, command: str) -> None:
    if command in ("boot", "rmi", "rm"):  # which say it in words of their own
        told(program, command, says=f"`mkroot {command}" if command != "rm" else "name containers", statuses=(2,))
    else:
        told(program, command, says="missing: ", statuses=(2,))


@pytest.mark.parametrize("command", sorted(WORDS))
def test_an_argument_that_is_empty(program: Forked, command: str) -> None:
    """As a script's variable without a value gives it: never the current folder or standard input."""
    told(program, command, *["", *WORDS[command][1:]], says=" is empty\nhint: ", statuses=(2,))


@pytest.mark.parametrize(
    "command",
    sorted(set(WORDS) - {"run", "exec", "explain", "save", "build", "check", "inspect", "lock", "outdated", "verify"}),
)
def test_an_argument_too_many(program: Forked, command: str) -> None:
    several = command in ("rmi", "stop", "kill", "wait", "rm")
    more = ["one", "t\x1bwo", "three"]
    says = "there is no " if several else "unexpected argument `"
    told(program, command, *WORDS[command], *more, says=says, statuses=(1, 2))


USAGE = [
    ("bui", "unknown command `bui`\nhint: did you mean `build`?"),
    ("BUILD", "unknown command `BUILD`"),
    ("--store x images", "unknown option `--store`"),
    ("-- build", "unknown option `--`"),
    ("\udcff\x1b", "unknown command `\\udcff\\x1b`"),
    ("x" * 5000, "unknown command `xxx"),
    ("build r.yaml -D x", "`-D x` is not NAME=VALUE"),
    ("build r.yaml -D =x", "`-D =x` is not NAME=VALUE"),
    ("build r.yaml -D", "argument -D: expected one argument"),
    ("build r.yaml --output zip", "`--output zip`: no such kind\nhint: kinds are "),
    ("build r.yaml --mirror ftp://mirror.example", "`--mirror`: expected an address that begins with http"),
    ("build r.yaml --mirror http://[x", "`--mirror`: expected an address with a valid host and port"),
    ("build r.yaml --mirror http://mirror.example:99999/", "`--mirror`: expected an address with a valid host"),
    ("build r.yaml --locked --no-lock", "not allowed with"),
    ("plan r.yaml --offline=yes", "ignored explicit argument"),
    ("size r.yaml --top x", "--top: invalid int value: 'x'"),
    ("why r.yaml tool --limit x", "--limit: invalid int value: 'x'"),
    ("sbom r.yaml --format xml", "--format: invalid choice: 'xml'"),
    ("boot r.yaml --accel xen", "--accel: invalid choice: 'xen'"),
    ("import good.tar b:1 --compression xz", "--compression: invalid choice: 'xz'"),
    ("import good.tar b:1 -m \udcff", "`-m \\udcff` is not UTF-8 text"),
    ("import good.tar b:1 -c RUN", "`RUN` is not a change of an image's config"),
    ("import good.tar b:1 -c CMD", "`CMD` says nothing after CMD"),
    ("import good.tar b:1 -c CMD=\udcff", "is not UTF-8 text"),
    ("import good.tar b:1 -c EXPOSE=99999", "`99999` is not a port"),
    ("import good.tar b:1 -c ENV=1=2", "`1` is not the name of a variable"),
    ("commit x -c RUN", "`RUN` is not a change of an image's config"),
    ("save a:1 x.tar --format zip", "--format: invalid choice: 'zip'"),
    ("save a:1", "name the archive, too"),
    ("inspect a:1 --type thing", "--type: invalid choice: 'thing'"),
    ("rmi a:1 --all", "name the images to remove, or all of them"),
    ("rm x --all", "name containers, or say `--all`"),
    ("run --memory x a:1 x", "`--memory x` is not a size of 6M or more"),
    (f"run --memory {'9' * 400} a:1 x", "is not a size of 6M or more"),
    ("run -v x a:1 x", "`-v x` is not HOST:PATH[:ro]"),
    ("run -v ./a:b a:1 x", "`-v ./a:b` is not HOST:PATH[:ro]"),
    ("run -v ./a:/b:rx a:1 x", "is not HOST:PATH[:ro]"),
    ("run -v a:/b a:1 x", "`a` is not a path of this host"),
    ("run -v ./a:/../b a:1 x", "is no place for a mount"),
    ("run -e =x a:1 x", "`-e`: `=x` is not NAME=VALUE"),
    ("run --env-file nowhere a:1 x", "`--env-file nowhere` cannot be read: No such file"),
    ("run --env-file folder.yaml a:1 x", "`--env-file folder.yaml` cannot be read: Is a directory"),
    ("run --env-file binary.tar a:1 x", "`--env-file binary.tar` cannot be read"),
    ("run --network bridge a:1 x", "--network: invalid choice: 'bridge'"),
    ("run --hostname a_b a:1 x", "`--hostname a_b` is not a host name"),
    ("run --pull always a:1 x", "--pull: invalid choice: 'always'"),
    ("exec x", "missing: CMD"),
    ("kill -s NONE x", "`--signal NONE` is not a signal"),
    (f"kill -s {'9' * 5000} x", "is not a signal"),
    ("kill -s RTMIN+99 x", "`--signal RTMIN+99` is not a signal"),
    ("stop -t x x", "-t/--time: invalid float value: 'x'"),
    ("logs -n x x", "-n/--tail: invalid int value: 'x'"),
    ("cp a b", "one of SRC and DEST is in a container"),
    ("cp a:/x b:/y", "one of SRC and DEST is in a container"),
    ("login registry.example/x", "`registry.example/x` is not a registry's host"),
    ("login 127.0.0.1:99999 -u x --password-stdin", "`127.0.0.1:99999` is not a registry's host"),
    ("login 127.0.0.1:1 -u x", "no password: standard input is no terminal"),
    ("login 127.0.0.1:1 --password-stdin", "missing: the user"),
    ("login 127.0.0.1:1 -u x:y --password-stdin", "`x:y` is not a user's name"),
    ("pull 127.0.0.1:1/a:1 --arch z80", "`--arch z80`: no such architecture"),
    ("pull 127.0.0.1:1/a --arch amd64 --all-arch", "not allowed with"),
    ("cache", "missing: list|size|prune|verify"),
    ("cache purge", "invalid choice: 'purge'"),
    ("cache prune --days x", "--days: invalid float value: 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"), USAGE, ids=[line[:40].encode("ascii", "replace").decode() for line, _ in USAGE]
)
def test_a_command_line_that_is_wrong(program: Forked, line: str, says: str) -> None:
    told(program, *line.split(" "), says=says, statuses=(2,))


FAILS = [
    ("build r.yaml -o file", "file: the output folder is a file\nhint: name another"),
    ("build r.yaml -D x=1", "r.yaml: `-D x`: the recipe declares no such variable"),
    ("build r.yaml -D x=\udcff", "`-D x`: the value is not UTF-8 text"),
    ("build r.yaml --locked", "r.lock: there is no lock\nhint: run `mkroot lock r.yaml`"),
    ("build r.yaml", "there is no suite `trixie"),
    ("build r.yaml --offline", "the store has no Release of `trixie"),
    ("build locked.yaml", "locked.lock: not a lock: "),
    ("plan locked.yaml", "locked.lock: not a lock: "),
    ("lock locked.yaml", "locked.lock: not a lock: "),
    ("verify locked.yaml", "locked.lock: not a lock: "),
    ("verify r.yaml", "r.lock: there is no lock"),
    ("boot r.yaml", "r.yaml: the recipe says nothing of how it boots"),
    ("test r.yaml", "r.yaml: the recipe says nothing of how it boots"),
    ("boot empty.tar", "empty.tar: the disk is an empty file"),
    ("boot nowhere.img", "nowhere.img: the disk cannot be read"),
    ("boot /dev/zero", "/dev/zero: it is no file that could be a disk"),
    ("import nowhere.tar", "nowhere.tar: the archive cannot be read: No such file"),
    ("import folder.yaml", "folder.yaml: the archive cannot be read: Is a directory"),
    ("import empty.tar", "empty.tar: the archive cannot be read: it is empty"),
    ("import binary.tar", "binary.tar: not a tar archive of a root"),
    ("import cut.tar", "cut.tar: the archive is damaged: the stream is truncated"),
    ("import short.tar", "short.tar: not a tar archive of a root"),
    ("import - b:1", "the archive cannot be read: it is empty"),
    ("import good.tar b:1 --arch z80", "`--arch z80`: no such architecture"),
    ("import good.tar UPPER", "`UPPER` is not an image reference: names are lower case\nhint: write `upper`"),
    ("load nowhere.tar", "nowhere.tar: the archive cannot be read: No such file"),
    ("load folder.yaml", "folder.yaml: not an OCI image layout"),
    ("load empty.tar", "empty.tar: not an archive of images: it is empty"),
    ("load binary.tar", "binary.tar: not an archive of images"),
    ("load cut.tar", "cut.tar: the archive is damaged"),
    ("load short.tar", "short.tar: not an archive of images: the tar stream is truncated"),
    ("load good.tar", "good.tar: neither a docker-archive nor an oci-archive"),
    ("load", "standard input: not an archive of images: it is empty"),
    ("load /dev/null", "/dev/null: not an archive of images: it is not a file"),
    ("save a:1 file/x", "file"),
    ("save a:1 folder.yaml", "folder.yaml: it is a folder"),
    ("save a:1 x.tar --arch z80", "`--arch z80`: no such architecture"),
    ("export a:1 folder.yaml", "folder.yaml: it is a folder"),
    ("history a:1 --arch z80", "`--arch z80`: no such architecture"),
    ("inspect a:1 --type container", "there is no container `a:1`"),
    (f"tag a:1 b@sha256:{'0' * 64}", "has a digest, which is not given but follows from the content"),
    ("rebase a:1 --onto absent:1", "there is no image `absent:1`"),
    ("diff a:1 nowhere.tar", "nowhere.tar: there is no such file or folder"),
    ("diff file file", "file: not a tar archive of a root"),
    ("explain folder.yaml /x", "folder.yaml: there is no manifest.json in it"),
    ("cp absent:/x b", "there is no container `absent`"),
    ("pull a:1", "`a:1` names no registry"),
    ("push a:1", "`a:1` names no registry"),
    ("tags a", "`a` names no registry"),
    ("pull 127.0.0.1:1/a:1", "127.0.0.1:1: the registry does not answer"),
    ("pull 127.0.0.1:1/a:1 --ca nowhere", "nowhere: `--ca` names a file of authorities that cannot be used"),
    ("pull 127.0.0.1:1/a:1 --ca file", "file: `--ca` names a file of authorities that cannot be used"),
    ("run a:1", "the image names no command\nhint: say what to run"),
    ("run -v /nowhere:/x a:1 x", "/nowhere: `-v /nowhere:/x`: No such file"),
    ("run --name a/b a:1 x", "`a/b` is not a name for a container"),
    ("run -w x a:1 x", "`-w x` is not an absolute path"),
    ("run --arch z80 a:1 x", "`--arch z80`: no such architecture"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "says"), FAILS, ids=[line[:40].encode("ascii", "replace").decode() for line, _ in FAILS]
)
def test_what_cannot_be_done(program: Forked, line: str, says: str) -> None:
    told(program, *line.split(" "), says=says, statuses=(125,) if line.startswith("run") else (1,))


CONTAINERS = ("commit", "start", "stop", "kill", "wait", "logs", "rm", "exec")


@pytest.mark.parametrize("command", CONTAINERS)
def test_a_container_that_is_not_there(program: Forked, command: str) -> None:
    more = ["sh"] if command == "exec" else []
    told(program, command, "a\x1b\udcff", *more, says="there is no container `a\\x1b\\udcff`", statuses=(1, 125))


REFERENCES = {
    "UPPER": "names are lower case",
    "a:": "a tag is",
    "a@sha256:1": "the digest after `@`",
    "a\udcff\x1b": "`a\\udcff\\x1b` is not an",
    "x" * 300: "is longer than 255",
    "[::1/a": "is not a host",
    "absent:1": "there is no image `absent:1`",
}


@pytest.mark.parametrize("command", ["history", "inspect", "run", "export", "tag", "save", "rmi"])
@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: r[:12].encode("ascii", "replace").decode())
def test_an_image_that_is_not_there_or_none(program: Forked, command: str, reference: str) -> None:
    more = {"tag": ["b:1"], "save": ["x.tar"]}.get(command, [])
    told(program, command, reference, *more, says=REFERENCES[reference], statuses=(1, 125))


# ---- recipes as files

FILES = {
    "nowhere.yaml": "nowhere.yaml: `nowhere.yaml` cannot be read: No such file",
    "folder.yaml": "folder.yaml: `folder.yaml` cannot be read: Is a directory",
    "file/r.yaml": "file/r.yaml: `file/r.yaml` cannot be read: Not a directory",
    "loop.yaml": "loop.yaml: `loop.yaml` cannot be read: Too many levels of symbolic links",
    "dangling.yaml": "dangling.yaml: `dangling.yaml` cannot be read: No such file",
    "n" * 300 + ".yaml": "ame ",
    "odd\udcff\x1b.yaml": "odd\\udcff\\x1b.yaml: `odd\\udcff\\x1b.yaml` cannot be read",
    "empty.yaml": "empty.yaml:1:1: the recipe is empty",
    "binary.yaml": "binary.yaml:2:118: a recipe is UTF-8 text, and this is not",
    "utf16.yaml": "utf16.yaml:1:1: a recipe is UTF-8 text, and this is not",
    "large.yaml": "large.yaml:1:1: a recipe has at most 1048576 bytes",
    "nul.yaml": "nul.yaml:10:3: a recipe holds no control character, and here is U+0000",
    "escape.yaml": "escape.yaml:10:3: a recipe holds no control character, and here is U+001B",
    "-": "<stdin>:1:1: the recipe is empty",
}


@pytest.mark.parametrize(
    "command", ["build", "lock", "check", "plan", "size", "why", "verify", "bundle", "boot", "test"]
)
@pytest.mark.parametrize("file", FILES, ids=lambda f: f[:12].encode("ascii", "replace").decode())
def test_a_recipe_that_cannot_be_read(program: Forked, command: str, file: str) -> None:
    more = ["tool"] if command == "why" else []
    if (file, command) == ("-", "bundle"):
        told(program, command, file, says="a recipe from standard input cannot be bundled", statuses=(2,))
    else:
        told(program, command, file, *more, says=FILES[file], statuses=(1,))


def test_a_device_without_end_is_no_recipe(program: Forked) -> None:
    told(program, "check", "/dev/zero", says="/dev/zero:1:1: a recipe has at most 1048576 bytes", statuses=(1,))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recipe_without_permission(program: Forked) -> None:
    path = program.folder / "mine.yaml"
    path.write_text(RECIPE)
    path.chmod(0)
    told(program, "check", "mine.yaml", says="mine.yaml: `mine.yaml` cannot be read: Permission denied", statuses=(1,))


# ---- recipes as texts; those under tests/cases/recipes are many more

BOMB = "vars: {a: '" + "x" * 5000 + "'}\n"
TEXTS = {
    "a file that is none of yours": ("extends: [secret.yaml]\n", "secret.yaml:1:1: "),
    "extends a folder": ("extends: [folder.yaml]\n", "r.yaml:1:11: `case/folder.yaml` cannot be read: Is a directory"),
    "extends nothing": ("extends: ['']\n", ":1:11: "),
    "extends a zero byte": ('extends: ["a\\0b"]\n', ":1:11: `extends[0]`: expected a path"),
    "extends a device": ("extends: [/dev/zero]\n", "/dev/zero:1:1: a recipe has at most"),
    "extends many": (
        "extends: [" + ", ".join(f"n{i}.yaml" for i in range(200)) + "]\n",
        "cannot be read: No such file",
    ),
    "variables that grow": (
        RECIPE + BOMB + "config: {hostname: '" + "${a}" * 5000 + "'}\n",
        "with its variables the recipe is longer",
    ),
    "deep lists": (RECIPE + "x: " + "[" * 5000 + "]" * 5000 + "\n", "nest"),
    "deep maps": (RECIPE + "x: " + "{a: " * 5000, "nothing in a recipe nests deeper than 40"),
    "deep keys": (RECIPE + "? " * 5000, "nothing in a recipe nests deeper than 40"),
    "an alias of itself": (RECIPE + "x: &x [*x]\n", ":10:8: `*x` contains itself"),
    "many keys": (RECIPE + "".join(f"k{i}: 1\n" for i in range(20_000)), "more faults"),
    "many aliases": (
        RECIPE + "x: &x [" + "1, " * 1000 + "1]\ny: [" + "*x, " * 100 + "*x]\n",
        "the aliases of a recipe expand to at most",
    ),
    "a surrogate": (RECIPE + 'config: {hostname: "\\ud800"}\n', ":10:"),
    "a wrong escape": (RECIPE + 'config: {hostname: "\\q"}\n', ":10:"),
    "a number without end": (
        RECIPE + "limits: {packages: " + "9" * 5000 + "}\n",
        ":10:10: `limits.packages`: expected a number",
    ),
    "a version of YAML": ("%YAML 9999999999999.1\n---\n" + RECIPE, ":1:1"),
    "a line without end": (RECIPE + "x" * 100_000 + ": 1\n", ":10:"),
    "a key of blanks": (RECIPE + "'  ': 1\n", ":10:1: "),
    "an escape in a key": (RECIPE + '"\\e[2J": 1\n', "\\x1b[2J"),
    "an escape in a value": (RECIPE + 'config: {hostname: "\\e[2J"}\n', "\\x1b[2J"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_recipe_whose_text_is_wrong(program: Forked, case: str) -> None:
    text, says = TEXTS[case]
    path = program.folder / "case"
    path.mkdir(exist_ok=True)
    (path / "r.yaml").write_text(text)
    (path / "secret.yaml").write_bytes((program.folder / "secret.yaml").read_bytes())
    (path / "folder.yaml").mkdir(exist_ok=True)
    done = told(program, "check", "case/r.yaml", says=says, statuses=(1,))
    assert SECRET not in done.err, "the content of another file is shown"


# ---- surroundings

STORES = {
    "a file": ("file", "file"),
    "in a device": ("/dev/null/x", "/dev/null/x"),
    "in proc": ("/proc/nowhere", "/proc/nowhere: the store cannot be written"),
    "of another format": ("foreign", "foreign: the store has format '99', this mkroot reads '1'"),
    "too long a name": ("x" * 5000, "xxxx"),
}


@pytest.mark.parametrize(
    "command", ["build r.yaml", "images", "ps", "cache size", "cache verify", "import good.tar b:1", "run a:1 x"]
)
@pytest.mark.parametrize("store", STORES)
def test_a_store_that_is_none(program: Forked, command: str, store: str) -> None:
    path, says = STORES[store]
    done = told(program, *command.split(" "), says=says, statuses=(1, 125), MKROOT_STORE=path)
    assert "store" in done.err or "name is too long" in done.err


ENVIRONMENT = [
    ("import good.tar b:1", "SOURCE_DATE_EPOCH", "x", "SOURCE_DATE_EPOCH is not a number of seconds", 2),
    ("import good.tar b:1", "SOURCE_DATE_EPOCH", "-1", "SOURCE_DATE_EPOCH is not a number", 2),
    ("import good.tar b:1", "SOURCE_DATE_EPOCH", "9" * 5000, "SOURCE_DATE_EPOCH is not a number", 2),
    ("run a:1 x", "MKROOT_RUNTIME", "docker", "`MKROOT_RUNTIME=docker` names no runtime", 125),
    ("plan r.yaml", "MKROOT_CONFIG", "/nowhere", "/nowhere: there is no such file, and `MKROOT_CONFIG` names it", 1),
    ("plan r.yaml", "MKROOT_CONFIG", "folder.yaml", "folder.yaml: the configuration cannot be read", 1),
    ("plan r.yaml", "MKROOT_CONFIG", "binary.tar", "binary.tar: the configuration cannot be read", 1),
]  # fmt: skip


@pytest.mark.parametrize(("line", "name", "value", "says", "status"), ENVIRONMENT, ids=lambda v: str(v)[:20])
def test_a_variable_of_the_environment(
    program: Forked, line: str, name: str, value: str, says: str, status: int
) -> None:
    told(program, *line.split(" "), says=says, statuses=(status,), **{name: value})


@pytest.mark.parametrize("locale", ["C", "POSIX", "nowhere.UTF-8", ""])
def test_a_message_in_any_locale(program: Forked, locale: str) -> None:
    """Names with bytes that the locale does not know are shown escaped, in the C locale as well."""
    done = subprocess.run(
        [*PROGRAM, "check", b"\xc3\xa9\xff.yaml"],
        capture_output=True,
        cwd=program.folder,
        env=program.environ | {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        check=False,
    )
    assert done.returncode == 1
    assert b".yaml` cannot be read" in done.stderr and b"Traceback" not in done.stderr
    assert done.stdout == b""


STREAMS = {
    "standard input closed": ("check - <&-", 1, "<stdin>: `-` cannot be read"),
    "standard output full": ("schema >/dev/full", 1, "error: the disk is full"),
    "a pipe that nobody reads": ("schema | true; exit ${PIPESTATUS[0]}", None, ""),
    "standard error closed": ("check nowhere.yaml 2>&-", 1, ""),
    "all closed": ("check nowhere.yaml <&- >&- 2>&-", 1, ""),
    "standard input is a device without end": ("check - </dev/zero", 1, "<stdin>:1:1: a recipe has at most"),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams(program: Forked, case: str) -> None:
    line, status, says = STREAMS[case]
    command = f"{PROGRAM[0]} -c '{PROGRAM[2]}' {line}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=program.folder, env=program.environ, check=False
    )
    assert done.returncode in ((0, 141) if status is None else (status,)), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr


def test_without_a_home(program: Forked) -> None:
    environ = {name: value for name, value in program.environ.items() if name not in ("HOME", "MKROOT_STORE")}
    done = subprocess.run(
        [*PROGRAM, "check", "nowhere.yaml"],
        capture_output=True,
        text=True,
        cwd=program.folder,
        env=environ,
        check=False,
    )
    assert (done.returncode, "nowhere.yaml" in done.stderr) == (1, True)


def test_in_a_folder_that_is_gone(program: Forked) -> None:
    command = f"mkdir gone; cd gone; rmdir ../gone; {PROGRAM[0]} -c '{PROGRAM[2]}' check r.yaml"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=program.folder, env=program.environ, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("build --arch z80 r.yaml", 2, "`--arch z80`: expected one of amd64"),
        ("plan --arch x86_64 r.yaml", 2, "Debian calls it `amd64`"),
        ("build --tag UPPER:1 r.yaml", 1, "names are lower case"),
        ("build --tag a:b:c r.yaml", 1, "a tag is letters"),
        ("cache list debz", 2, "no entries of the kind `debz`"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(program: Forked, words: str, status: int, said: str) -> None:
    told(program, *words.split(), says=said, statuses=(status,))
