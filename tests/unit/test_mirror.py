"""Which mirror is taken when the recipe names none, and what an address may look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mkroot.archive import address, config, keyring, mirror
from mkroot.archive.config import Config
from mkroot.errors import MirrorError, RecipeError, masked
from tests.testarchive import Key

DEBIAN = "/usr/share/keyrings/debian-archive-keyring.gpg"
UBUNTU = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
OTHER = "/usr/share/keyrings/other.gpg"
TEMPLATE = """Suite: {series}
RepositoryType: deb
BaseURI: http://ports.mirror.example/ubuntu-ports/
BaseURI-amd64: http://template.mirror.example/ubuntu/
Description: Ubuntu

Suite: {series}
ParentSuite: {series}
RepositoryType: deb-src
BaseURI: http://source.mirror.example/ubuntu/
"""


def deb822(uri: str, suites: str = "trixie trixie-updates", components: str = "main", **more: str) -> str:
    fields = {"Types": "deb", "URIs": uri, "Suites": suites, "Components": components}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    return "".join(f"{k}: {v}\n" for k, v in fields.items())


class Host:
    """A host's files: os-release, keyrings, apt sources."""

    def __init__(self, root: Path, distro: str = "debian", codename: str = "trixie") -> None:
        self.root = root
        self.write("etc/os-release", f'ID={distro}\nVERSION_CODENAME="{codename}"\n')
        for name in ("debian", "ubuntu"):
            data = b"".join(bytes(c.cert) for c in keyring.shipped(name, host=None).certificates)
            self.write(f"usr/share/keyrings/{name}-archive-keyring.gpg", data)
        self.write(OTHER, Key().public())

    def write(self, path: str, content: str | bytes) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def sources(self, text: str, name: str = "debian.sources") -> None:
        self.write(f"etc/apt/sources.list.d/{name}", text)

    def find(self, distro: str = "debian", architecture: str = "amd64", **more: Any) -> mirror.Mirror:
        more.setdefault("config", Config())
        more.setdefault("environ", {})
        return mirror.mirror(distro, architecture, root=self.root, **more)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_four_ways_in_their_order(host: Host) -> None:
    host.write("usr/share/python-apt/templates/Debian.info", TEMPLATE.replace("ubuntu", "debian"))
    more: dict[str, Any] = {}
    expected = "http://template.mirror.example/debian"
    for key, value, then in (
        ("", None, expected),
        ("host", deb822("http://host.mirror.example/debian", Signed_By=DEBIAN), "http://host.mirror.example/debian"),
        ("config", Config(mirrors={"debian": "http://config.mirror.example/d"}), "http://config.mirror.example/d"),
        ("environ", {"MKROOT_MIRROR_DEBIAN": "http://env.mirror.example/d"}, "http://env.mirror.example/d"),
        ("recipe", "http://recipe.mirror.example/d", "http://recipe.mirror.example/d"),
        ("option", "file:/srv/debian", "file:/srv/debian"),
    ):
        if key == "host":
            host.sources(str(value))
        elif key:
            more[key] = value
        assert host.find(**more).archive.url == then


def test_nothing_known_names_the_four_ways(host: Host) -> None:
    with pytest.raises(MirrorError) as caught:
        host.find("ubuntu")
    text = str(caught.value)
    for way in ("--mirror", "MKROOT_MIRROR_UBUNTU", "config.toml", "apt sources", "python-apt-common"):
        assert way in text


def test_templates_know_architectures(host: Host) -> None:
    host.write("usr/share/python-apt/templates/Ubuntu.info", TEMPLATE)
    assert host.find("ubuntu").archive.url == "http://template.mirror.example/ubuntu"
    assert host.find("ubuntu", "arm64").archive.url == "http://ports.mirror.example/ubuntu-ports"


HOSTS = [
    ("deb822", deb822("http://m.example/debian/", Signed_By=DEBIAN), "http://m.example/debian"),
    ("no keys named, the address looks the part", deb822("http://m.example/debian"), "http://m.example/debian"),
    ("a company's mirror", deb822("https://m.example/apt/deb", Signed_By=DEBIAN), "https://m.example/apt/deb"),
    ("a file", deb822("file:/srv/mirror", Signed_By=DEBIAN), "file:/srv/mirror"),
    ("suite stable", deb822("http://m.example/debian", "stable", Signed_By=DEBIAN), "http://m.example/debian"),
    ("disabled", deb822("http://m.example/debian", Enabled="no", Signed_By=DEBIAN), None),
    ("enabled", deb822("http://m.example/debian", Enabled="yes", Signed_By=DEBIAN), "http://m.example/debian"),
    ("sources only", deb822("http://m.example/debian", Signed_By=DEBIAN).replace(": deb\n", ": deb-src\n"), None),
    ("third party, same names, own keys", deb822("http://m.example/debian", Signed_By=OTHER), None),
    ("third party, keys missing", deb822("http://m.example/debian", Signed_By="/nowhere.gpg"), None),
    ("third party, no keys named", deb822("http://m.example/tool", "trixie"), None),
    ("third party, other component", deb822("http://m.example/linux/debian", "trixie", "stable"), None),
    ("pockets alone", deb822("http://m.example/debian", "trixie-backports", Signed_By=DEBIAN), None),
    ("flat", "deb http://m.example/debian ./\n", None),
    ("for another architecture", deb822("http://m.example/debian", Signed_By=DEBIAN, Architectures="arm64"), None),
    ("for this one", deb822("http://m.example/debian", Architectures="arm64 amd64"), "http://m.example/debian"),
    ("cdrom", deb822("cdrom:[Debian]/", Signed_By=DEBIAN), None),
    ("a scheme of apt's own", deb822("mirror+file:/etc/apt/mirrors/debian.list", Signed_By=DEBIAN), None),
    ("one line", "deb http://m.example/debian trixie main contrib # comment\n", "http://m.example/debian"),
    (
        "one line with options",
        f"deb [arch=amd64 signed-by={DEBIAN}] http://m.example/x trixie main\n",
        "http://m.example/x",
    ),
    ("one line, keys of others", f"deb [signed-by={OTHER}] http://m.example/debian trixie main\n", None),
    ("one line, commented out", "# deb http://m.example/debian trixie main\n", None),
    (
        "signed by fingerprint",
        deb822("http://m.example/x", Signed_By="04B54C3CDCA79751B16BC6B5225629DF75B188BD"),
        "http://m.example/x",
    ),
    ("signed by another fingerprint", deb822("http://m.example/debian", Signed_By="0" * 40), None),
    (
        "signed by a block of another key",
        deb822(
            "http://m.example/debian",
            Signed_By="\n" + "".join(f" {line or '.'}\n" for line in Key().public_armored().splitlines()),
        ),
        None,
    ),
    ("the second of two", deb822("http://t.example/debian", Signed_By=OTHER) + "\n" + deb822("http://m.example/debian"),
     "http://m.example/debian"),
    ("two addresses", deb822("http://m.example/debian http://n.example/debian"), "http://m.example/debian"),
    ("comments and blank lines", "# x\n\n#URIs: http://no.example/debian\n" + deb822("http://m.example/debian"),
     "http://m.example/debian"),
    ("an unreadable keyring block", deb822("http://m.example/debian", Signed_By="\n -----BEGIN PGP PUBLIC KEY"), None),
    ("garbage", "\0\1\2: x\n::\n\n[", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "expected"), HOSTS, ids=[h[0] for h in HOSTS])
def test_the_hosts_apt_sources(host: Host, name: str, text: str, expected: str | None) -> None:
    host.sources(text, "x.list" if text.startswith(("deb", "# deb")) else "x.sources")
    if expected is None:
        with pytest.raises(MirrorError, match="no mirror of `debian`"):
            host.find()
    else:
        found = host.find()
        assert found.archive.url == expected
        assert found.origin == "the host's apt sources"


def test_what_apt_downloaded_tells_whose_an_archive_is(host: Host) -> None:
    host.sources("deb http://m.example/pkgs trixie main\n", "x.list")
    host.write("var/lib/apt/lists/m.example_pkgs_dists_trixie_InRelease", "Origin: Tool\n")
    with pytest.raises(MirrorError):
        host.find()
    host.write("var/lib/apt/lists/m.example_pkgs_dists_trixie_InRelease", "Origin: Debian\n")
    assert host.find().archive.url == "http://m.example/pkgs"


def test_sources_of_another_distribution_do_not_count(host: Host) -> None:
    host.sources(deb822("http://m.example/debian", Signed_By=DEBIAN))
    with pytest.raises(MirrorError, match="no mirror of `ubuntu`"):
        host.find("ubuntu")


def test_ubuntu_keeps_other_architectures_elsewhere(tmp_path: Path) -> None:
    host = Host(tmp_path, "ubuntu", "noble")
    host.write("usr/share/python-apt/templates/Ubuntu.info", TEMPLATE)
    host.sources(deb822("http://m.example/ubuntu", "noble noble-updates noble-security", Signed_By=UBUNTU), "u.sources")
    assert host.find("ubuntu", "amd64").archive.url == "http://m.example/ubuntu"
    assert host.find("ubuntu", "arm64").archive.url == "http://ports.mirror.example/ubuntu-ports"


def test_ubuntus_ports_have_names_of_their_own(host: Host) -> None:
    host.write("usr/share/python-apt/templates/Ubuntu.info", TEMPLATE)
    more: dict[str, Any] = {}
    for key, value, main, ports in (
        ("config", Config(mirrors={"ubuntu": "file:/c/u"}), "file:/c/u", "file:/c/u"),
        ("config", Config(mirrors={"ubuntu": "file:/c/u", "ubuntu-ports": "file:/c/p"}), "file:/c/u", "file:/c/p"),
        ("environ", {"MKROOT_MIRROR_UBUNTU": "file:/e/u"}, "file:/e/u", "file:/c/p"),
        ("environ", {"MKROOT_MIRROR_UBUNTU_PORTS": "file:/e/p"}, "file:/c/u", "file:/e/p"),
        ("option", "file:/o", "file:/o", "file:/o"),
    ):
        more[key] = value
        for architecture, then in (("amd64", main), ("i386", main), ("arm64", ports), ("s390x", ports)):
            assert host.find("ubuntu", architecture, **more).archive.path == Path(then.removeprefix("file:"))
    with pytest.raises(MirrorError) as caught:
        host.write("usr/share/python-apt/templates/Ubuntu.info", "")
        host.find("ubuntu", "riscv64")
    assert "MKROOT_MIRROR_UBUNTU_PORTS" in str(caught.value)
    assert host.find("debian", "arm64", environ={"MKROOT_MIRROR_DEBIAN": "file:/d"}).archive.path == Path("/d")


@pytest.mark.parametrize(
    ("archive", "security"),
    [
        ("http://m.example/debian", "http://m.example/debian-security"),
        ("http://m.example/pub/debian/", "http://m.example/pub/debian-security"),
        ("http://m.example:8080/archive/debian/20261101T000000Z", None),
        ("file:/srv/debian", "file:/srv/debian-security"),
        ("file:///srv/mini", "file:/srv/debian-security"),
        ("http://m.example/", "http://m.example/debian-security"),
        ("http://debian.m.example/debian", "http://debian.m.example/debian-security"),
    ],
)
def test_debians_security_archive_stands_beside(host: Host, archive: str, security: str | None) -> None:
    found = host.find(option=archive).security
    assert found is not None
    assert found.url == (security or "http://m.example:8080/archive/debian-security/20261101T000000Z")


def test_debians_security_archive_as_the_host_or_the_user_names_it(host: Host) -> None:
    host.sources(
        deb822("http://m.example/debian", Signed_By=DEBIAN)
        + "\n"
        + deb822("http://s.example/sec", "trixie-security", Signed_By=DEBIAN)
    )
    found = host.find()
    assert found.security is not None and found.security.url == "http://s.example/sec"
    named = Config(mirrors={"debian": "http://c.example/debian", "debian-security": "http://c.example/s"})
    found = host.find(config=named)
    assert found.security is not None and found.security.url == "http://c.example/s"


def test_ubuntu_has_no_security_archive_apart(host: Host) -> None:
    assert host.find("ubuntu", option="http://m.example/ubuntu").security is None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://m.example/debian/", "http://m.example/debian"),
        ("HTTPS://M.example/debian", "https://m.example/debian"),
        ("http://u:p%40ss@m.example:8080/d", "http://m.example:8080/d"),
        ("http://[::1]:80/d", "http://[::1]:80/d"),
        ("file:/srv/x", "file:/srv/x"),
        ("file:///srv//x/", "file:/srv/x"),
        ("file://localhost/srv/x", "file:/srv/x"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert address.parse(text, "test").url == url


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "m.example/debian",
        "/srv/debian",
        "ftp://m.example/debian",
        "ssh://u:s3cr3t@m.example/debian",
        "http://",
        "http:///debian",
        "http://m.example/debian?x=1",
        "http://m.example/debian#x",
        "http://m.example/a b",
        "http://u:s3cr3t@m.example/a\nb",
        "http://m.example:port/debian",
        "http://[::1/debian",
        "file:srv/debian",
        "file://host/srv/debian",
        "javascript:alert(1)",
        "http://m.example/\x1b[2J",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(MirrorError) as caught:
        address.parse(text, "recipe.yaml:4:9")
    assert caught.value.where == "recipe.yaml:4:9"
    assert "s3cr3t" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_credentials_are_masked_everywhere() -> None:
    found = address.parse("http://user:s3cr3t@m.example/debian", "test")
    assert (found.user, found.password) == ("user", "s3cr3t")
    for shown in (str(found), repr(found), str(found.join("x")), repr(found.sibling("y", "debian")), f"{found}"):
        assert "s3cr3t" not in shown and "user" not in shown.replace("user=", "")
    assert masked("see http://a:b@m.example/ and //c:d@n.example") == ("see http://***@m.example/ and //***@n.example")


def test_credentials_from_apts_auth_conf(host: Host) -> None:
    host.write("etc/apt/auth.conf", "machine other.example login a password b\n")
    host.write(
        "etc/apt/auth.conf.d/company.conf",
        "machine m.example/debian\nlogin user\npassword s3cr3t\n"
        "machine http://plain.example login p password q\nmachine ports.example:8080 login x password y\n",
    )
    for text, expected in (
        ("https://m.example/debian", ("user", "s3cr3t")),
        ("https://m.example/debian/sub", ("user", "s3cr3t")),
        ("https://m.example/ubuntu", ("", "")),
        ("https://m.example/debianish", ("", "")),
        ("http://m.example/debian", ("", "")),
        ("http://plain.example/debian", ("p", "q")),
        ("https://ports.example:8080/d", ("x", "y")),
        ("https://own:one@m.example/debian", ("own", "one")),
    ):
        found = host.find(option=text).archive
        assert (found.user, found.password) == expected, text


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", ".", "a\0b"])
def test_paths_that_leave_an_archive(path: str) -> None:
    with pytest.raises(MirrorError, match="not a path inside an archive"):
        address.parse("http://m.example/debian", "test").join(path)


def test_paths_are_quoted_for_http_and_meant_literally_for_files(tmp_path: Path) -> None:
    name = "pool/g++ 1%2b~rc:1_all.deb"
    assert address.parse("http://m.example/d", "t").join(name).url.endswith("/pool/g++%201%252b~rc:1_all.deb")
    assert address.parse(f"file:{tmp_path}", "t").join(name).path == tmp_path / name


def test_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mkroot" / "config.toml"
    path.parent.mkdir()
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert config.load({"XDG_CONFIG_HOME": str(tmp_path / "none")}) == Config()
    path.write_text(
        '[mirrors]\ndebian = "http://m.example/debian"\n[snapshots]\nubuntu = "http://m.example/{snapshot}"\n'
    )
    found = config.load(environ)
    assert found.mirrors == {"debian": "http://m.example/debian"}
    assert found.snapshots == {"ubuntu": "http://m.example/{snapshot}"}
    assert config.load({"MKROOT_CONFIG": str(path)}) == found
    assert config.default_path({"HOME": "/home/u"}) == Path("/home/u/.config/mkroot/config.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mirror]\ndebian='x'\n", "unknown section or key `mirror`"),
        ("mirrors = 'x'\n", "`mirrors` is a section"),
        ("[mirrors]\ndebian = 3\n", "`mirrors.debian` must be an address"),
        ("[mirrors\n", "not TOML"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        config.load({"MKROOT_CONFIG": str(path)})
    assert said in caught.value.what
    assert caught.value.where == str(path)


def test_a_configuration_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`MKROOT_CONFIG` names it"):
        config.load({"MKROOT_CONFIG": str(tmp_path / "none.toml")})
