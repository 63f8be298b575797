"""Accounts, files, host name, zone and locale: what the distribution's own tools leave is the truth here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from mkroot.errors import MkrootError, RecipeError
from mkroot.recipe.model import Config, File, Group, User
from mkroot.recipe.numbers import Mode
from mkroot.recipe.values import AccountName, Hostname, ImagePath, LinkTarget, Locale, Owner, Password, Text, TimeZone
from mkroot.recipe.wants import LocalPath
from mkroot.rootfs.accounts import Accounts, login_defs
from mkroot.rootfs.customise import Customised, customise
from mkroot.rootfs.inputs import read_inputs
from mkroot.rootfs.tree import Tree, top_of
from mkroot.store.layer import Layer
from tests.unit.roots import DAY, EPOCH, changes, debian, tree_of


def name(text: str) -> AccountName:
    return AccountName(text)


def run(tree: Tree, config: Config) -> Customised:
    return customise(tree, config, read_inputs(config), epoch=EPOCH)


def added(tree: Tree, before: Tree, path: str) -> list[str]:
    old = before.read(path).decode().splitlines()
    return [line for line in tree.read(path).decode().splitlines() if line not in old]


def test_accounts_are_what_useradd_and_groupadd_leave(tmp_path: Path) -> None:
    before = tree_of(tmp_path, debian())
    tree = before.copy()
    config = Config(
        groups=(Group(name=name("web"), gid=10000),),
        users=(
            User(name=name("app"), comment="The App", shell=ImagePath("/bin/bash"), groups=(name("sudo"), name("adm"))),
            User(name=name("bob"), uid=10000, group=name("web"), groups=(name("users"),)),
            User(name=name("carol"), password=Password("$6$salt$hash")),
            User(name=name("guest"), password=Password("empty")),
        ),
    )
    done = run(tree, config)
    # useradd 4.17 wrote these lines, but for the numbers: the lowest free ones are adduser's rule
    assert added(tree, before, "etc/passwd") == [
        "app:x:1000:1000:The App:/home/app:/bin/bash",
        "bob:x:10000:10000::/home/bob:/bin/sh",
        "carol:x:1001:1001::/home/carol:/bin/sh",
        "guest:x:1002:1002::/home/guest:/bin/sh",
    ]
    assert added(tree, before, "etc/group") == [
        "adm:x:4:app", "sudo:x:27:app", "users:x:100:bob",
        "web:x:10000:", "app:x:1000:", "carol:x:1001:", "guest:x:1002:",
    ]  # fmt: skip
    assert added(tree, before, "etc/shadow") == [
        f"app:!:{DAY}:0:99999:7:::",
        f"bob:!:{DAY}:0:99999:7:::",
        f"carol:$6$salt$hash:{DAY}:0:99999:7:::",
        f"guest::{DAY}:0:99999:7:::",
    ]
    assert added(tree, before, "etc/gshadow") == [
        "adm:*::app", "sudo:*::app", "users:*::bob", "web:!::", "app:!::", "carol:!::", "guest:!::",
    ]  # fmt: skip
    assert tree.read("etc/subuid").decode() == (
        "app:100000:65536\nbob:165536:65536\ncarol:231072:65536\nguest:296608:65536\n"
    )
    assert [c for c in changes(before, tree) if "home" in c][:2] == [
        "d 0755 0:0 home",
        "d 0700 1000:1000 home/app",
    ]
    assert "f 0644 1000:1000 home/app/.profile" in changes(before, tree)
    assert "f 0640 0:42 etc/shadow" in changes(before, tree)
    assert done.origins["home/bob"] == "recipe: config.users[1]"


@pytest.mark.skipif(os.getuid() != 0, reason="useradd --prefix needs root")
def test_the_lines_equal_those_of_the_real_useradd(tmp_path: Path) -> None:
    """The host's own tools write into the same account files."""
    root = tmp_path / "root"
    for path, text in debian().items():
        if path.startswith("etc/"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(str(text))
    try:
        for argv in (
            ["groupadd", "-P", str(root), "-g", "10000", "web"],
            ["useradd", "-P", str(root), "-M", "-c", "The App", "-s", "/bin/bash", "-u", "1000", "-G", "sudo", "app"],
            ["useradd", "-P", str(root), "-M", "-s", "/bin/sh", "-u", "10000", "-g", "web", "bob"],
        ):
            subprocess.run(argv, check=True, capture_output=True, env={"PATH": os.environ["PATH"] + ":/usr/sbin"})
    except FileNotFoundError:
        pytest.skip("no useradd here")
    except subprocess.CalledProcessError as e:
        pytest.skip(f"this host's useradd does not take --prefix: {e.stderr.decode().strip()}")
    tree = tree_of(tmp_path, debian())
    run(
        tree,
        Config(
            groups=(Group(name=name("web"), gid=10000),),
            users=(
                User(
                    name=name("app"), comment="The App", uid=1000, shell=ImagePath("/bin/bash"), groups=(name("sudo"),)
                ),
                User(name=name("bob"), uid=10000, group=name("web")),
            ),
        ),
    )
    for file in ("passwd", "group", "gshadow"):
        ours, theirs = tree.read(f"etc/{file}").decode(), (root / "etc" / file).read_text()
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines()), file
    strip = [line.split(":")[:2] + line.split(":")[3:] for line in tree.read("etc/shadow").decode().splitlines()]
    assert strip == [
        line.split(":")[:2] + line.split(":")[3:] for line in (root / "etc/shadow").read_text().splitlines()
    ]


def test_an_account_of_a_package_is_changed_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    before = tree_of(tmp_path, debian())
    tree = before.copy()
    (tmp_path / "me.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@box\n")
    key = LocalPath(str(tmp_path / "me.pub"), "me.pub")
    run(tree, Config(users=(User(name=name("root"), ssh_keys=(key,)),)))
    assert changes(before, tree) == [
        "d 0700 0:0 root",
        "d 0700 0:0 root/.ssh",
        "f 0600 0:0 root/.ssh/authorized_keys",
    ]
    assert tree.read("root/.ssh/authorized_keys").startswith(b"ssh-ed25519 AAAA")


@pytest.mark.parametrize(
    ("config", "where", "says"),
    [
        (Config(users=(User(name=name("a"), shell=ImagePath("/bin/zsh")),)), "config.users[0].shell", "/bin/bash"),
        (Config(users=(User(name=name("a"), groups=(name("sudoo"),)),)), "config.users[0].groups[0]", "`sudo`"),
        (Config(users=(User(name=name("a"), group=name("none")),)), "config.users[0].group", "config.groups"),
        (Config(users=(User(name=name("a"), uid=33),)), "config.users[0].uid", "`www-data`"),
        (Config(users=(User(name=name("root"), uid=5),)), "config.users[0].uid", "with id 0"),
        (Config(groups=(Group(name=name("g"), gid=27),)), "config.groups[0].gid", "`sudo`"),
        (Config(timezone=TimeZone("Europe/Pari")), "config.timezone", "`Europe/Paris`"),
        (Config(locale=Locale("de_DE.UTF-8")), "config.locale", "`locales`"),
        (
            Config(files=(File(path=ImagePath("/etc/passwd/x"), content=Text("")),)),
            "config.files[0]",
            "not a folder",
        ),
        (Config(files=(File(path=ImagePath("/etc"), content=Text("")),)), "config.files[0]", "not a file"),
        (
            Config(files=(File(path=ImagePath("/x"), content=Text(""), owner=Owner("www:adm")),)),
            "config.files[0].owner",
            "no user `www`",
        ),
        (Config(files=(File(path=ImagePath("/x/.wh.y"), content=Text("")),)), "config.files[0].path", "layers"),
    ],
)
def test_a_fault_names_the_key_and_the_next_step(tmp_path: Path, config: Config, where: str, says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        run(tree_of(tmp_path, debian()), config)
    assert raised.value.where == where
    assert says in str(raised.value)


def test_all_faults_are_told_together(tmp_path: Path) -> None:
    config = Config(timezone=TimeZone("Mars/Base"), users=(User(name=name("a"), shell=ImagePath("/bin/zsh")),))
    with pytest.raises(MkrootError) as raised:
        run(tree_of(tmp_path, debian()), config)
    assert "config.timezone" in str(raised.value) and "config.users[0].shell" in str(raised.value)


def test_host_name_zone_and_locale(tmp_path: Path) -> None:
    before = tree_of(tmp_path, debian())
    tree = before.copy()
    config = Config(hostname=Hostname("box.lan"), timezone=TimeZone("Europe/Paris"), locale=Locale("C.UTF-8"))
    done = run(tree, config)
    assert done.commands == ()
    assert changes(before, tree) == [
        "d 0755 0:0 etc/default",
        "l 0777 0:0 etc/default/locale -> ../locale.conf",
        "f 0644 0:0 etc/hostname",
        "f 0644 0:0 etc/hosts",
        "f 0644 0:0 etc/locale.conf",
        "l 0777 0:0 etc/localtime -> /usr/share/zoneinfo/Europe/Paris",
    ]
    assert tree.read("etc/hosts").decode().splitlines()[:2] == ["127.0.0.1\tlocalhost", "127.0.1.1\tbox.lan box"]
    assert tree.read("etc/locale.conf").decode().splitlines()[-1] == "LANG=C.UTF-8"


def test_debian_12_keeps_its_older_files(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, debian(**{"usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n'}))
    done = run(tree, Config(timezone=TimeZone("Europe/Paris"), locale=Locale("C.UTF-8")))
    assert tree.read("etc/timezone") == b"Europe/Paris\n"
    assert tree.read("etc/default/locale").endswith(b"LANG=C.UTF-8\n")
    assert "etc/locale.conf" not in done.origins


def test_another_locale_is_built_by_the_image_itself(tmp_path: Path) -> None:
    files = debian(
        **{
            "usr/sbin/locale-gen": "x!",
            "usr/share/i18n/SUPPORTED": "de_DE.UTF-8 UTF-8\nfr_FR ISO-8859-1\n",
            "etc/locale.gen": "# a list\n# de_DE.UTF-8 UTF-8\n# fr_FR ISO-8859-1\n",
        }
    )
    tree = tree_of(tmp_path, files)
    done = run(tree, Config(locale=Locale("de_DE.UTF-8")))
    assert tree.read("etc/locale.gen").decode() == "# a list\nde_DE.UTF-8 UTF-8\n# fr_FR ISO-8859-1\n"
    assert [c.argv for c in done.commands] == [("/usr/sbin/locale-gen",)]
    with pytest.raises(RecipeError, match="did you mean"):
        run(tree_of(tmp_path, files), Config(locale=Locale("de_DX.UTF-8")))


def test_a_user_without_a_home_gets_no_keys_and_a_failed_user_blames_no_file(tmp_path: Path) -> None:
    (tmp_path / "me.pub").write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@box\n")
    key = LocalPath(str(tmp_path / "me.pub"), "me.pub")
    with pytest.raises(RecipeError, match="no key can be"):
        run(tree_of(tmp_path, debian()), Config(users=(User(name=name("nobody"), ssh_keys=(key,)),)))
    config = Config(
        users=(User(name=name("app"), shell=ImagePath("/bin/zsh")),),
        files=(File(path=ImagePath("/x"), content=Text(""), owner=Owner("app")),),
    )
    with pytest.raises(RecipeError) as raised:
        run(tree_of(tmp_path, debian()), config)
    assert raised.value.where == "config.users[0].shell"


def test_files_trees_folders_and_links(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "run").write_text("#!/bin/sh\n")
    (source / "bin" / "run").chmod(0o700)
    (source / "bin" / "go").symlink_to("run")
    (source / "note").write_text("n")
    (source / "note").chmod(0o600)
    config = Config(
        users=(User(name=name("app"), uid=2000),),
        files=(
            File(path=ImagePath("/srv"), source=LocalPath(str(source), "tree"), owner=Owner("app")),
            File(path=ImagePath("/bin/tool"), content=Text("t"), mode=Mode(0o755)),
            File(path=ImagePath("/etc/x"), link=LinkTarget("/run/x"), owner=Owner("33:4")),
            File(path=ImagePath("/var/data"), directory=True, mode=Mode(0o2750), owner=Owner("www-data:adm")),
            File(path=ImagePath("/up/f"), content=Text("f")),
        ),
    )
    before = tree_of(tmp_path, debian(up="-> ../../../etc/skel"))
    tree = before.copy()
    run(tree, config)
    assert [
        c for c in changes(before, tree) if " home" not in c and not c.endswith(("passwd", "group", "shadow", "id"))
    ] == [
        "f 0644 0:0 etc/skel/f",
        "l 0777 33:4 etc/x -> /run/x",
        "d 0755 2000:2000 srv",
        "d 0755 2000:2000 srv/bin",
        "l 0777 2000:2000 srv/bin/go -> run",
        "f 0755 2000:2000 srv/bin/run",
        "f 0644 2000:2000 srv/note",
        "f 0755 0:0 usr/bin/tool",
        "d 0755 0:0 var",
        "d 2750 33:4 var/data",
    ]
    # What the recipe says has types of its own; what is kept in the store has not.
    layer, _ = top_of(before, tree, "key", "config", {})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(layer), type=Layer) == layer


def test_a_recipes_tree_holds_files_folders_and_links_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for named in (tmp_path / "pipe", tmp_path):
        config = Config(files=(File(path=ImagePath("/srv"), source=LocalPath(str(named), "x")),))
        with pytest.raises(RecipeError, match="neither a file"):
            read_inputs(config)


def test_a_private_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nb3\n-----END OPENSSH PRIVATE KEY-----\n")
    config = Config(users=(User(name=name("a"), ssh_keys=(LocalPath(str(tmp_path / "k"), "k"),)),))
    with pytest.raises(RecipeError, match="private key") as raised:
        read_inputs(config)
    assert raised.value.where == "config.users[0].ssh_keys[0]"


def test_inputs_do_not_depend_on_owner_umask_or_order(tmp_path: Path) -> None:
    import msgspec

    found = []
    for number, order in enumerate((["a", "b", "c"], ["c", "b", "a"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        for n in order:
            (folder / n).write_text(n)
            (folder / n).chmod(0o600 if number else 0o644)
        config = Config(files=(File(path=ImagePath("/srv"), source=LocalPath(str(folder), "t")),))
        found.append(msgspec.msgpack.encode(read_inputs(config)))
    assert found[0] == found[1]


def test_an_image_without_account_files_gets_base_passwds_masters(tmp_path: Path) -> None:
    master = "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    tree = tree_of(
        tmp_path,
        {
            "usr/share/base-passwd/passwd.master": master,
            "usr/share/base-passwd/group.master": "root:*:0:\nshadow:*:42:\n",
        },
    )
    run(tree, Config(users=(User(name=name("app"), uid=5000),)))
    assert tree.read("etc/passwd").decode().splitlines()[0] == "root:x:0:0:root:/root:/bin/bash"
    assert tree.read("etc/passwd").decode().splitlines()[-1] == "app:x:5000:5000::/home/app:/usr/sbin/nologin"
    assert tree.get("etc/shadow").gid == 42  # type: ignore[union-attr]


def test_login_defs_numbers_and_a_full_range() -> None:
    defs = login_defs("UID_MIN 0x10\nUID_MAX\t17 \nGID_MIN 16\nGID_MAX 17\nHOME_MODE 0750\nUMASK 022\n")
    assert (defs["UID_MIN"], defs["UID_MAX"], defs["HOME_MODE"], defs["SUB_UID_MIN"]) == (16, 17, 0o750, 100_000)
    accounts = Accounts({"passwd": "a:x:16:1::/:/x\n", "group": ""}, defs, 1)
    assert accounts.free_id() == 17
    with pytest.raises(RecipeError, match="no number"):
        accounts.free_id({17})
