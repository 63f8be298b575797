"""What the host keeps secret stays with the host: no file of a build and no line of output has any of it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.testarchive import Archive, File, Server
from tests.unit.commands import Done, Program
from tests.unit.registryserver import Request, memory_registry

USER = "sam"
PLACES = (
    "option", "recipe", "environ", "config", "security", "snapshots", "source", "proxy", "secureproxy", "allproxy",
    "auth", "login", "docker", "podman",
)  # fmt: skip
SECRETS = {place: f"s3cr3t-{place}/{n}@x" for n, place in enumerate(PLACES)}


def quoted(place: str) -> str:
    return f"{USER}:{urllib.parse.quote(SECRETS[place], safe='')}"


def url(address: str, place: str) -> str:
    return address.replace("//", f"//{quoted(place)}@")


def basic(place: str) -> str:
    return base64.b64encode(f"{USER}:{SECRETS[place]}".encode()).decode()


def forms() -> Iterator[tuple[str, bytes]]:
    """Yield each secret in every form in which it might be written."""
    for place, secret in SECRETS.items():
        yield place, secret.encode()
        yield place, urllib.parse.quote(secret, safe="").encode()
        yield place, f"s3cr3t-{place}".encode()
        yield place, basic(place).encode()


def contents(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, and what they are the compressed form of."""
    import zstandard

    data = path.read_bytes()
    yield data
    if data[:4] == b"\x28\xb5\x2f\xfd":
        found = b""
        with contextlib.suppress(zstandard.ZstdError):  # the store's frames are followed by what they are
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
            while piece := reader.read(1 << 16):
                found += piece
        yield found
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)


def leaks(root: Path, *, but: set[Path]) -> list[str]:
    """Return which secrets stand in which file below a folder."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and not {path, *path.parents} & but:
            for data in contents(path):
                found += [f"{place} in {path.relative_to(root)}" for place, form in forms() if form in data]
    return found


class Host:
    """A user's folder with a secret in each place that takes one, an archive and a registry that ask for them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.program = Program(folder)
        archive = Archive(folder / "archive")
        executable = File(content=b"#!", mode=0o755)
        archive.add("apt", "1.0", essential=True, architecture="amd64", files={"usr/bin/apt-get": executable})
        archive.add("tool", "2.0", depends="lib", files={"usr/bin/tool": executable})
        archive.add("lib", "1.0", files={"usr/lib/lib.so": b"x" * 5000})
        self.server: Server = stack.enter_context(archive.serve())
        self.registry = stack.enter_context(memory_registry())
        self.server.authorize = lambda headers: (
            headers.get("authorization", "") in {f"Basic {basic(p)}" for p in ("option", "source")}
        )
        self.registry.faults.append(self._guarded)
        plain = self.server.uri
        recipe = archive.recipe(
            packages={"variant": "none", "include": ["tool", "apt"]},
            sources=[
                {
                    "id": "extra",
                    "uri": url(plain, "source"),
                    "suites": [archive.codename],
                    "components": ["main"],
                    "key": {"file": "archive/archive-key.asc"},
                    "keep": True,
                }
            ],
            configure="none",
            outputs=["tar", "oci", "dir"],
            image={"compression": "none", "tags": [f"{self.registry.host}/team/box:1"]},
        )
        recipe["keyring"] = "archive/archive-key.asc"
        recipe["mirror"] = url("http://mirror.example/debian", "recipe")
        self.program.recipe("box.yaml", recipe)
        del recipe["mirror"], recipe["sources"]
        self.program.recipe("plain.yaml", recipe)
        self.login()
        config = {
            "mirrors": {
                "debian": url("http://config.example/d", "config"),
                "debian-security": url(f"{self.server.base}/debian-security", "option"),
                "ubuntu": url("http://mirror.example/u", "security"),
            },
            "snapshots": {"debian": url("http://mirror.example/{snapshot}", "snapshots")},
        }
        lines = (f"[{s}]\n" + "".join(f'{k} = "{v}"\n' for k, v in e.items()) for s, e in config.items())
        (folder / "config.toml").write_text("".join(lines))
        self.environ = {
            "MKROOT_CONFIG": str(folder / "config.toml"),
            "MKROOT_MIRROR_DEBIAN": url("http://environ.example/debian", "environ"),
            "MKROOT_DEBUG": "1",
            "http_proxy": url("http://proxy.example:3128", "proxy"),
            "https_proxy": url("http://proxy.example:3128", "secureproxy"),
            "all_proxy": url("http://proxy.example:3128", "allproxy"),
            "no_proxy": "127.0.0.1",
        }
        self.secret_files = {folder / "box.yaml", folder / "config.toml", folder / "home"}
        self.said: list[Done] = []

    def login(self) -> None:
        """Put logins where Docker and podman have them."""
        home = self.folder / "home"
        for name, auths in (
            (".docker/config.json", {self.registry.host: {"auth": basic("docker")}}),
            (".config/containers/auth.json", {"other.example": {"auth": basic("podman")}}),
        ):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(json.dumps({"auths": auths}))

    def _guarded(self, request: Request) -> bool:
        given = request.headers.get("Authorization", "")
        if given in {f"Basic {basic(p)}" for p in ("docker", "login")}:
            return False
        request.body()
        message = f"who is this? you sent {given}"
        request.refuse(401, "UNAUTHORIZED", message, WWW_Authenticate='Basic realm="box"')
        return True

    def run(self, *arguments: str, stdin: str = "", status: int | None = 0, **environ: str) -> Done:
        done = self.program(*arguments, stdin=stdin, **(self.environ | environ))
        self.said.append(done)
        assert status is None or done.status == status, (arguments, done.err)
        return done

    def nothing_told(self) -> None:
        """Demand that no secret is in what was written, and none in what was said."""
        assert leaks(self.folder, but=self.secret_files) == []
        for done in self.said:
            for place, form in forms():
                assert form not in (done.out + done.err).encode(), (place, done.out + done.err)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(tmp_path, stack)


def mirror(host: Host) -> tuple[str, str]:
    return "--mirror", url(host.server.uri, "option")


def test_a_build_and_all_that_looks_at_it(host: Host) -> None:
    where = mirror(host)
    host.run("build", "box.yaml", "--json", *where)
    sources = list((host.folder / "out").rglob("rootfs/etc/apt/sources.list.d/*.sources"))
    assert sorted(p.name for p in sources) == ["debian.sources", "extra.sources"]
    assert all("URIs: http://127.0.0.1:" in p.read_text() for p in sources), "the mirror is in the image, without them"
    for command in ("plan", "lock", "size", "sbom", "check"):
        host.run(command, "box.yaml", *(("--json",) if command in ("plan", "size", "check") else ()), *where)
    host.run("why", "box.yaml", "lib", *where)
    host.run("verify", "box.yaml", *where)
    reference = f"{host.registry.host}/team/box:1"
    for arguments in (("images", "--json"), ("history", reference), ("inspect", reference), ("cache", "list")):
        host.run(*arguments)
    host.run("doctor", status=None)
    host.run("push", reference)
    host.run("login", host.registry.host, "-u", USER, "--password-stdin", stdin=SECRETS["login"])
    host.run("pull", reference, MKROOT_STORE=str(host.folder / "store2"))
    refused = host.run("bundle", "box.yaml", "-o", "box.tar", *where, status=1)
    assert "error: box.yaml: an address in the recipe has a user and a password" in refused.err
    assert not (host.folder / "box.tar").exists()
    host.run("bundle", "plain.yaml", "-o", "plain.tar", *where)
    assert leaks(host.folder, but=set()), "what is looked for is found where it is"
    host.nothing_told()
    sent = b"".join(data for blobs in host.registry.blobs.values() for data in blobs.values())
    sent += b"".join(data for _, data in host.registry.manifests.values())
    assert sent and not [place for place, form in forms() if form in sent], "nor does the registry get any of it"


FAILURES: list[tuple[str, Callable[[Host], object]]] = [
    ("a mirror that refuses", lambda h: h.server.fault("*", "status", times=None, status=403)),
    ("a mirror that is down", lambda h: h.server.fault("*/InRelease", "reset", times=None)),
    ("a mirror that is not what it was", lambda h: h.server.fault("*/InRelease", "body", times=None, content=b"x")),
    (
        "a redirect that nobody follows",
        lambda h: h.server.fault("*", "redirect", times=None, location=url("ftp://m.example/x", "option")),
    ),
    ("a package that is another", lambda h: h.server.fault("*.deb", "corrupt", times=None, after=200)),
]


@pytest.mark.parametrize(("name", "spoil"), FAILURES, ids=[f[0] for f in FAILURES])
def test_a_build_that_fails(host: Host, name: str, spoil: Callable[[Host], object]) -> None:
    spoil(host)
    host.run("build", "box.yaml", *mirror(host), status=1)
    host.nothing_told()


WRONG = [
    "//sam:{}@h",
    "http://sam:{}@[::1/d", "http://sam:{}@h:port/d", "ftp://sam:{}@h/d", "sam:{}@h/d", "http:/sam:{}@h/d",
    "http://sam:{}@h/a b", "http://sam:{}@h/d?x", "http://sam:{}@", "http://sa m:{}@h/d", "http://sam:{}@h/\\x1b",
]  # fmt: skip


@pytest.mark.counts("bad-input")
@pytest.mark.parametrize("text", WRONG)
def test_addresses_that_are_none(tmp_path: Path, text: str, record_property: Callable[[str, object], None]) -> None:
    """Each address in each place that takes one; the password has a slash and an at sign, as people write it."""
    program = Program(tmp_path)
    wrong = text.format(SECRETS["option"])
    data = {"version": 1, "name": "x", "distro": "debian", "suite": "trixie", "keyring": "k.asc"}
    (tmp_path / "config.toml").write_text(f"[mirrors]\ndebian = {json.dumps(wrong)}\n")
    (tmp_path / "k.asc").write_text("")
    source = {"id": "x", "uri": wrong, "suites": ["s"], "components": ["main"]}
    recipes: dict[str, Any] = {
        "plain": {},
        "mirror": {"mirror": wrong},
        "apt": {"apt": {"mirror": wrong}},
        "source": {"sources": [source]},
    }
    for name, more in recipes.items():
        program.recipe(f"{name}.yaml", {**data, **more})
    runs = (
        program("check", "mirror.yaml", "apt.yaml", "source.yaml", "--json", MKROOT_DEBUG="1"),
        program("check", "mirror.yaml", "apt.yaml", "source.yaml", MKROOT_DEBUG="1"),
        program("check", "plain.yaml", "--mirror", wrong, MKROOT_DEBUG="1"),
        program("plan", "plain.yaml", "--mirror", wrong, MKROOT_DEBUG="1"),
        program("plan", "plain.yaml", f"--miror={wrong}", MKROOT_DEBUG="1"),
        program("plan", "plain.yaml", MKROOT_DEBUG="1", MKROOT_MIRROR_DEBIAN=wrong),
        program("plan", "plain.yaml", MKROOT_DEBUG="1", MKROOT_CONFIG="config.toml"),
    )
    for done in runs:
        assert done.status in (1, 2), done.out + done.err
        assert "internal error" not in done.err
        assert "s3cr3t" not in done.out + done.err
    record_property("cases", len(runs))
