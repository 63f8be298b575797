"""Reading good recipes: values, composition, variables, standard input, and text that is no recipe at all."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mkroot.errors import Faults
from mkroot.recipe.load import load
from mkroot.recipe.model import Recipe
from mkroot.recipe.values import Refused
from mkroot.recipe.wants import Want

HEAD = "version: 1\nname: x\ndistro: debian\nsuite: trixie\n"
RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes").glob("*.yaml"))
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "r.yaml", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + textwrap.dedent(text))
        return path

    return write


def faults(path: Path, **defines: str) -> list[str]:
    with pytest.raises(Faults) as raised:
        load(path, defines)
    return [str(fault) for fault in raised.value.faults]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_the_repository_are_right(path: Path) -> None:
    recipe = load(path)
    assert recipe.name == path.stem
    assert recipe.mirror is None
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=../docs/recipe.schema.json"
    assert lines[1].startswith("# ")


def test_defaults(write: Write) -> None:
    recipe = load(write(""))
    assert recipe.arch == ("amd64",)
    assert recipe.components == ("main",)
    assert recipe.pockets == ("updates", "security")
    assert recipe.packages.variant == "minbase"
    assert recipe.configure == "scripts"
    assert recipe.image.parent == "none"
    assert recipe.boot is None
    assert recipe.outputs == ("tar.zst",)
    assert recipe.apt.mirror == "used"


def test_defaults_that_depend_on_other_keys(write: Write) -> None:
    assert load(write("image: {from: 'debian:trixie'}\n")).packages.variant == "none"
    assert load(write("image: {from: 'debian:trixie'}\npackages: {variant: apt}\n")).packages.variant == "apt"
    bios = load(write("boot: {kernel: k1, firmware: bios}\ndisk: {root: erofs}\n"))
    assert bios.boot is not None
    assert (bios.boot.loader, bios.disk.overlay) == ("grub", True)
    bare = load(write("boot: {kernel: k1}\ndisk: {root: erofs, overlay: false}\n"))
    assert bare.boot is not None
    assert (bare.boot.loader, bare.disk.overlay) == ("systemd-boot", False)


def test_every_key_of_the_format(write: Write, tmp_path: Path) -> None:
    for name in ("keys.gpg", "k.asc", "local.deb", "me.pub", "setup.sh"):
        (tmp_path / name).touch()
    (tmp_path / "tree").mkdir()
    recipe = load(
        write(
            """
            arch: [amd64, arm64]
            components: [main, universe]
            pockets: []
            mirror: http://mirror.example/debian
            keyring: ./keys.gpg
            snapshot: 20261101T000000Z
            sources:
              - id: tool
                uri: https://mirror.example/tool
                suites: [stable]
                components: [main]
                key: {file: k.asc, fingerprint: 0123 4567 89ab cdef 0123  4567 89ab cdef 0123 4567}
            pins: [{package: "nginx*", source: tool, priority: 990}]
            packages:
              variant: important
              include: [openssh-server, "curl=8.*", vim/noble-updates, ./local.deb, "libc6:arm64=2.39"]
              exclude: [tzdata]
              recommends: true
            trim: {docs: true, locales: [C.UTF-8, de_DE.UTF-8], paths: ["/usr/share/x/**"]}
            config:
              hostname: box
              timezone: America/Argentina/Buenos_Aires
              locale: C.UTF-8
              groups: [{name: app, gid: 10000}]
              users: [{name: app, uid: 10000, groups: [app], shell: /bin/sh, password: locked, ssh_keys: [me.pub]}]
              files:
                - {path: /etc/motd, content: "hi\\n", mode: "4755"}
                - {path: /srv, from: ./tree, owner: "app:app"}
                - {path: /etc/x, link: /run/x}
              services: {enable: [ssh], disable: [apt-daily.timer], mask: [tmp.mount]}
            hooks: [{at: configured, run: ./setup.sh, network: false}]
            image:
              layers: {by: source, budget: 12, single-stream: true}
              compression: zstd
              cmd: [/bin/bash, -c, "true"]
              env: {A: b}
              user: 1000
              tags: ["mirror.example:5000/team/x:1.0_A"]
            boot: {kernel: linux-image-virtual, initramfs: distro, loader: uki, cmdline: "console=ttyS0"}
            disk: {size: 1.5G, root: ext4}
            outputs: [tar.zst, oci, disk.qcow2, uki]
            limits: {rootfs: 180M, packages: 120}
            test: {memory: 1G, timeout: 2m, expect: ["-x", "login:"], run: [{cmd: "true", exit: 3}]}
            """
        )
    )
    deb, arm = recipe.packages.include[3:]
    assert deb.file is not None and deb.file.relative == "local.deb"
    assert (arm.name, arm.arch, arm.version) == ("libc6", "arm64", "2.39")
    assert recipe.packages.include[2] == Want(name="vim", suite="noble-updates")
    assert recipe.sources[0].key is not None
    assert recipe.sources[0].key.fingerprint == "0123456789ABCDEF0123456789ABCDEF01234567"
    assert recipe.config.files[0].mode == 0o4755
    assert recipe.config.files[0].content == "hi\n"
    assert recipe.config.services.enable == ("ssh.service",)
    assert recipe.config.services.disable == ("apt-daily.timer",)
    assert recipe.image.layers.single_stream
    assert recipe.image.user == "1000"
    assert recipe.disk.size == 3 << 29
    assert recipe.limits.rootfs == 180 << 20
    assert recipe.test.timeout == 120
    assert recipe.test.expect == ("-x", "login:")
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_lists_merge_maps_merge_and_items_leave(write: Write) -> None:
    write(
        """
        packages: {include: [vim=9.*, nano, curl], recommends: true}
        image: {env: {A: base, B: base}, cmd: [/bin/sh], tags: ["base:1"]}
        config:
          hostname: base
          users: [{name: app, uid: 5}, {name: web}]
          files: [{path: /etc/a, content: a}]
        limits: {packages: 5}
        """,
        "base.yaml",
        head="",
    )
    recipe = load(
        write(
            """
            extends: [base.yaml]
            packages: {include: [-vim, git, curl]}
            image: {env: {B: here}, cmd: [/bin/bash, -l], tags: ["-base:1", "here:1"]}
            config:
              hostname: null
              users: [-app, {name: app, uid: 6}]
              files: [-/etc/a, {path: /etc/a, content: b}]
            limits: null
            """
        )
    )
    assert [str(want) for want in recipe.packages.include] == ["nano", "curl", "git"]
    assert recipe.packages.recommends
    assert recipe.image.env == {"A": "base", "B": "here"}
    assert recipe.image.cmd == ("/bin/bash", "-l")
    assert recipe.image.tags == ("here:1",)
    assert recipe.config.hostname is None
    assert [(user.name, user.uid) for user in recipe.config.users] == [("web", None), ("app", 6)]
    assert [file.content for file in recipe.config.files] == ["b"]
    assert recipe.limits.packages is None


def test_a_file_reached_twice_counts_once(write: Write) -> None:
    write("suite: bookworm\nconfig: {users: [{name: app}]}\n", "root.yaml", head="")
    write("extends: [root.yaml]\nsuite: trixie\n", "left.yaml", head="")
    write("extends: [root.yaml]\npackages: {include: [vim]}\n", "right.yaml", head="")
    recipe = load(write("extends: [left.yaml, right.yaml]\n", head="version: 1\nname: x\ndistro: debian\n"))
    assert recipe.suite == "trixie"
    assert len(recipe.config.users) == 1
    assert len(recipe.packages.include) == 1


def test_paths_are_relative_to_the_file_that_names_them(write: Write, tmp_path: Path) -> None:
    write("keyring: k.asc\npackages: {include: [./a.deb]}\n", "sub/base.yaml", head="")
    (tmp_path / "sub" / "k.asc").touch()
    (tmp_path / "sub" / "a.deb").touch()
    recipe = load(write("extends: [sub/base.yaml]\n"))
    assert recipe.keyring is not None
    assert recipe.keyring.relative == "sub/k.asc"
    assert Path(recipe.keyring).samefile(tmp_path / "sub" / "k.asc")
    assert str(recipe.packages.include[0]) == "./sub/a.deb"


def test_variables(write: Write) -> None:
    path = write(
        """
        vars: {release: noble, id: 7, docs: "false"}
        pockets: []
        trim: {docs: "${docs}"}
        config:
          users: [{name: app, uid: "${id}"}]
          files: [{path: /etc/x, content: "$HOME $${HOME} ${release}-${release} $"}]
        image: {tags: ["x:${release}"], env: {ID: "${id}"}}
        """,
    )
    recipe = load(path, {"docs": "true", "id": "8"})
    assert recipe.trim.docs
    assert recipe.config.users[0].uid == 8
    assert recipe.config.files[0].content == "$HOME ${HOME} noble-noble $"
    assert recipe.image.tags == ("x:noble",)
    assert recipe.image.env == {"ID": "8"}
    assert recipe.vars == {"release": "noble", "id": "8", "docs": "true"}


def test_variables_of_an_extended_file_can_be_given_here(write: Write) -> None:
    write("vars: {release: bookworm}\nsuite: ${release}\n", "base.yaml", head="")
    head = "version: 1\nname: x\ndistro: debian\nextends: [base.yaml]\n"
    assert load(write("", head=head)).suite == "bookworm"
    assert load(write("vars: {release: trixie}\n", head=head)).suite == "trixie"
    assert load(write("vars: {release: trixie}\n", head=head), {"release": "sid"}).suite == "sid"


def test_standard_input_is_relative_to_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "k.asc").touch()
    script = (
        "from mkroot.recipe.load import load\nfrom mkroot.errors import Faults\n"
        "try: print(load('-').keyring)\nexcept Faults as e: print(e)"
    )

    def run(text: str) -> str:
        done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, cwd=tmp_path)
        return done.stdout + done.stderr

    assert run(HEAD + "keyring: k.asc\n") == "k.asc\n"
    assert run(HEAD + "keyring: none.asc\n").startswith("<stdin>:5:1: `keyring`: `none.asc` is not there")


def test_all_kinds_of_faults_are_told_together_in_order(write: Write) -> None:
    write("image: {usr: x}\n", "base.yaml", head="")
    told = faults(
        write("extends: [base.yaml]\narch: amd64\nconfig: {users: [{name: a}, {name: a, uid: x}]}\nkeyring: none\n"),
        other="x",
    )
    places = [fault.split(": ")[0].rpartition("/")[2] for fault in told]
    assert places == ["r.yaml", "r.yaml:6:1", "r.yaml:7:30", "r.yaml:7:39", "r.yaml:8:1", "base.yaml:1:9"]


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"\xff\xfea\x00", "1:1", "UTF-8"),
        (b"version: 1\nname: \xe9\n", "2:7", "UTF-8"),
        (b"version: 1\nname: a\x1b[31m\n", "2:8", "U+001B"),
        (b"version: 1\0\n", "1:11", "U+0000"),
        ("version: 1\nna\ufeffme: a\n".encode(), "2:3", "U+FEFF"),
        (b"#" * (1 << 20) + b"\n", "1:1", "at most 1048576 bytes"),
    ],
)
def test_bytes_that_are_no_recipe(tmp_path: Path, data: bytes, where: str, what: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    (told,) = faults(path)
    assert told.startswith(f"{path}:{where}: ")
    assert what in told
    assert "\x1b" not in told


def test_a_byte_order_mark_and_windows_line_ends_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode())
    assert load(path).suite == "trixie"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert faults(tmp_path / "none.yaml") == [
        f"{tmp_path}/none.yaml: `{tmp_path}/none.yaml` cannot be read: No such file or directory"
    ]
    assert "Is a directory" in faults(tmp_path)[0]


def test_messages_hold_no_control_characters_and_stay_short(write: Write) -> None:
    told = "\n".join(faults(write('"a\\e[31m": 1\nconfig: {hostname: "' + "x\\a" * 30_000 + '"}\n')))
    assert "\x1b" not in told and "\a" not in told
    assert len(told) < 20_000


def test_ten_thousand_faults_stay_short(write: Write) -> None:
    path = write("packages: {include: [" + ", ".join(f"A{i}" for i in range(10_000)) + "]}\n")
    told = faults(path)
    assert len("\n".join(told)) < 20_000
    assert told[-1] == f"and {10_000 - len(told) + 1} more faults"


def test_long_lists_take_no_long_time(write: Write) -> None:
    names = [f"p{i}" for i in range(10_000)]
    write("packages: {include: [" + ", ".join(names) + "]}\n", "base.yaml", head="")
    minus = ", ".join(f"-{name}" for name in names[1:])
    started = time.perf_counter()
    recipe = load(write(f"extends: [base.yaml]\npackages: {{include: [{minus}, p0]}}\n"))
    assert [want.name for want in recipe.packages.include] == ["p0"]
    assert time.perf_counter() - started < 5


def test_what_stands_twice_counts_once_and_moves_no_place(write: Write) -> None:
    path = write("packages:\n  exclude: [zsh]\n  include:\n  - vim\n  - vim\n  - zsh\narch: [amd64, amd64]\n")
    (told,) = faults(path)
    assert told.startswith(f"{path}:10:5: ")
    assert "`zsh` is excluded" in told


def test_aliases_nest_no_deeper_than_lists_do(write: Write) -> None:
    chain = "\n".join(f"  - &a{i} [*a{i - 1}]" for i in range(1, 3000))
    (told,) = faults(write(f"packages:\n  include:\n  - &a0 [vim]\n{chain}\n"))
    assert "nests deeper than" in told


def test_a_command_line_keeps_what_stands_twice(write: Write) -> None:
    assert load(write("image: {cmd: [echo, a, a, -x]}\n")).image.cmd == ("echo", "a", "a", "-x")


def test_a_value_of_the_command_line_that_is_no_text(write: Write) -> None:
    assert faults(write("vars: {a: b}\n"), a="\udcff") == ["`-D a`: the value is not UTF-8 text"]


@pytest.mark.parametrize(
    "text", ["vim", "g++", "0ad", "libstdc++6", "vim:any", "a1=1:2.3-4~x+y", "vim=2:*", "./a b.deb"]
)
def test_wants_print_as_they_are_written(text: str) -> None:
    assert str(Want.parse(text)) == text


@pytest.mark.parametrize("text", ["-vim", "vim-", "v", "vim=", "vim/", "vim::amd64", "vim=1/x", "vim;rm", "vim\n", "é"])
def test_wants_that_are_none(text: str) -> None:
    if text == "vim-":  # a legal name (Policy 5.6.7), which nobody has
        assert Want.parse(text).name == "vim-"
    else:
        with pytest.raises(Refused):
            Want.parse(text)


def attempt(text: str) -> None:
    """Load `text` as a recipe: it is a recipe, or it has faults; anything else is a bug."""
    try:
        recipe = load("r.yaml", reader=lambda path: text.encode("utf-8", "surrogatepass"), files=False)
    except Faults as e:
        assert e.faults
        assert len(str(e)) < 20_000
    else:
        assert isinstance(recipe, Recipe)


QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(st.text())
def test_any_text_is_a_recipe_or_has_faults(text: str) -> None:
    attempt(text)


@QUICK
@given(st.text(alphabet="abc:-[]{}#&*!|>'\"%@`, \n\t?~${}0123<=", max_size=60))
def test_any_punctuation_is_a_recipe_or_has_faults(text: str) -> None:
    attempt(text)
    attempt(HEAD + text)


WORDS = (
    "version name extends vars distro suite arch packages include exclude config users groups files services enable "
    "hooks at run image from layers by env tags boot kernel disk size root outputs limits test expect mode path key "
    "sources pins uri suites trim apt mirror snapshot content link uid"
)
KEYS = st.sampled_from(WORDS.split())
PLAIN = "null true no 1 -1 4294967295 1.5 0644 2026-11-01 [] {} vim '' '${a}' amd64 none ./x.deb ~"
SCALARS = st.one_of(
    st.sampled_from(PLAIN.split()),
    st.text(max_size=5).map(repr),
)


def flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(item) for item in value) + "]"
    return str(value)


VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@QUICK
@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_shape_of_known_keys_is_a_recipe_or_has_faults(shape: dict[str, object]) -> None:
    attempt("".join(f"{key}: {flow(value)}\n" for key, value in shape.items()))
