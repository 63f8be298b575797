"""`zstd:chunked` in a real registry: podman fetches what it lacks and no more, and other programs see plain zstd.

Two versions of podman read it. Debian 12's (4.3, containers/storage 1.43) looks for annotations of another name than
today's, and then forgets owners and times; so mkroot writes today's names, and that podman pulls the whole layer. With
its names, which the test puts there, it shows that the table is right. Debian 13's (5.4) pulls partially as it is.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.integration.building import build, mkroot, needs, needs_root
from tests.integration.registries import Served, served
from tests.integration.test_same_bytes import Case, as_somebody_else, digests, told
from tests.testarchive import Archive, File
from tests.unit.partial import ANNOTATION, Partial

OLD_NAMES = "io.containers.zstd-chunked."  # of containers/storage before 1.44
Tree = dict[str, tuple[Any, ...]]


class Proxy:
    """Stands before a server on loopback, and counts what goes down and which paths are asked for."""

    def __init__(self, host: str) -> None:
        name, _, port = host.partition(":")
        self._to = name, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.down = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._to)
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other, one is server), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, down: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self.down += len(data) if down else 0
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


def archive_of(folder: Path) -> Archive:
    """Packages with files that nothing compresses, of several owners, one of them in several chunks."""
    random = Random(7)
    archive = Archive(folder)
    archive.add("base", "1.0", essential=True, files={"etc/base": b"base\n", "usr/bin/base": File(mode=0o4755)})
    for n in range(6):
        owned = {
            f"usr/share/p{n}/{i}": File(content=random.randbytes(9_000), uid=n, gid=40 + i, mode=0o640 | i, mtime=10**9)
            for i in range(6)
        }
        archive.add(f"p{n}", f"1.{n}", source=f"s{n % 3}", files={**owned, f"usr/share/p{n}/empty": b""})
    long = "usr/share/odd/" + "d" * 90 + "/" + "e" * 90
    odd = {f"{long}/" + "f" * 120: b"deep", "usr/share/odd/n\u00e4me": b"not ascii", "usr/share/odd/plain": b"linked"}
    archive.add(
        "odd", "1", files=odd, hardlinks={"usr/share/odd/z": "usr/share/odd/plain"}, dirs={"srv/t": 0o1777},
        symlinks={"usr/share/odd/link": "../" * 45 + "x", "usr/share/odd/\u00fc": "n\u00e4me"},
    )  # fmt: skip
    archive.add("large", "1", files={"usr/lib/large": random.randbytes(1 << 20) * 9 + b"."})
    archive.add("more", "1", files={"usr/lib/more": random.randbytes(30_000)})
    archive.uri  # noqa: B018 -- published
    return archive


def recipe(archive: Archive, at: Path, name: str, *more: str, **image: Any) -> Path:
    include = [*(f"p{n}" for n in range(6)), "large", "odd", *more]
    at.mkdir(parents=True, exist_ok=True)
    shutil.copy(archive.keyring, at / "keys.asc")
    told = {"name": name, "configure": "none", "packages": {"include": include}, "outputs": ["oci", "tar"]}
    image = {"compression": "zstd:chunked", "cmd": ["/usr/bin/base"], **image}
    path = at / f"{name}.yaml"
    path.write_text(json.dumps(archive.recipe(**told, keyring="keys.asc", image=image)))
    return path


class Place:
    """Images `old` and `new`, which has one file more, in a registry behind a proxy, and their trees."""

    def __init__(self, folder: Path, registry: Served) -> None:
        self.folder = folder
        self.registry = registry
        self.archive = archive_of(folder / "archive")
        for name, more in (("old", ()), ("new", ("more",))):
            path = recipe(self.archive, folder / "recipes", name, *more)
            mkroot("build", path, "-o", folder / "out", "--no-lock", store=folder / "store")
            reference = f"{registry.host}/t/{name}:1"
            mkroot("tag", f"{name}:latest", reference, store=folder / "store")
            mkroot("push", reference, store=folder / "store")

    def layout(self, name: str) -> Path:
        return self.folder / "out" / name / "amd64/oci"

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest as the registry gives it."""
        connection = http.client.HTTPConnection(self.registry.host)
        connection.request(
            "GET", f"/v2/t/{name}/manifests/1", headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}
        )
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found

    def tree(self, name: str) -> Tree:
        return without_root(tree((self.folder / "out" / name / "amd64/rootfs.tar").read_bytes()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("partial")
    with served(folder / "registry") as registry:
        yield Place(folder, registry)


def tree(data: bytes) -> Tree:
    """A tar archive's members: kind, mode, owners, time of a file, content; a hard link as its file."""
    found: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive.getmembers():
            m = archive.getmember(member.linkname) if member.islnk() else member
            content = hashlib.sha256(archive.extractfile(m).read()).hexdigest() if m.isreg() else m.linkname  # type: ignore[union-attr]
            time = m.mtime if m.isreg() else 0
            found[member.name.removeprefix("./").rstrip("/").removeprefix(".")] = (
                m.type,
                m.mode,
                m.uid,
                m.gid,
                time,
                content,
            )
    return found


def without_root(found: Tree) -> Tree:
    return {name: member for name, member in found.items() if name}


def by_range(place: Place, name: str) -> tuple[Partial, list[int]]:
    """An image's only layer, read by ranges from the registry; the list gets the size of each answer."""
    (layer,) = place.manifest(name)["layers"]
    connection = http.client.HTTPConnection(place.registry.host)
    sizes: list[int] = []

    def fetch(at: int, size: int) -> bytes:
        wanted = {"Range": f"bytes={at}-{at + size - 1}"}
        connection.request("GET", f"/v2/t/{name}/blobs/{layer['digest']}", headers=wanted)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 206 and len(data) == size
        sizes.append(size)
        return data

    return Partial(fetch, layer["size"], layer["annotations"]), sizes


def test_what_is_new_is_fetched_by_ranges_from_the_registry(place: Place) -> None:
    """The annotations went with the push; all that one needs who has `old` is the table, and one file."""
    old, _ = by_range(place, "old")
    new, sizes = by_range(place, "new")
    (layer,) = place.manifest("new")["layers"]
    known = old.digests()
    missing = [(e, chunks) for e, chunks in new.files() if chunks and e["digest"] not in known]
    names = {e["name"] for e, _ in missing}
    assert "usr/lib/more" in names and not any(n.startswith("usr/share/p") or n == "usr/lib/large" for n in names)
    contents = {e["name"]: new.content(e, chunks) for e, chunks in missing}
    assert len(contents["usr/lib/more"]) == 30_000
    assert sum(sizes) < 60_000 < layer["size"] / 20
    assert [len(chunks) for e, chunks in new.files() if e["name"] == "usr/lib/large"] == [3]


def test_zstd_and_skopeo_see_plain_zstd(place: Place, tmp_path: Path) -> None:
    needs("skopeo", "zstd")
    (layer,) = place.manifest("new")["layers"]
    blob = place.layout("new") / "blobs/sha256" / layer["digest"][7:]
    stream = subprocess.run(["zstd", "-dc", blob], capture_output=True, check=True).stdout
    config = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--config", f"oci:{place.layout('new')}"], capture_output=True, check=True
        ).stdout
    )
    assert ["sha256:" + hashlib.sha256(stream).hexdigest()] == config["rootfs"]["diff_ids"]
    assert without_root(tree(stream)) == place.tree("new")
    source = f"docker://{place.registry.host}/t/new:1"
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", source]
    subprocess.run([*copy, f"dir:{tmp_path}/dir"], check=True)
    assert (tmp_path / "dir" / layer["digest"][7:]).read_bytes() == blob.read_bytes()


def test_umoci_unpacks_what_skopeo_recompressed(place: Place, tmp_path: Path) -> None:
    """umoci 0.4.7 knows no zstd at all; skopeo makes gzip of it on the way."""
    needs("skopeo", "umoci")
    needs_root()
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-compress-format", "gzip", "--dest-compress"]
    subprocess.run([*copy, f"oci:{place.layout('new')}", f"oci:{tmp_path}/gzip:it"], check=True)
    subprocess.run(
        ["umoci", "unpack", "--image", f"{tmp_path}/gzip:it", tmp_path / "bundle"], check=True, capture_output=True
    )
    assert without_root(tree(packed(tmp_path / "bundle/rootfs"))) == place.tree("new")


def packed(root: Path) -> bytes:
    return subprocess.run(
        ["tar", "--numeric-owner", "-C", root, "-cf", "-", "."], capture_output=True, check=True
    ).stdout


class Podman:
    """A podman with a store of its own, in which partial pulls are allowed. root: of the system it is of."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.folder = Path(tempfile.mkdtemp(prefix="mkp-"))  # podman's runroot has at most 50 characters
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/g"\nrunroot = "{self.folder}/r"\n'
            '[storage.options]\npull_options = {enable_partial_images = "true", use_hard_links = "false"}\n'
        )
        (self.folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def __call__(self, script: str) -> str:
        """Run a shell script in a mount namespace of its own, in the system's root, and return what it prints."""
        into = [
            "mount -t proc proc {0}/proc", "mount --bind /dev {0}/dev", "mount --bind /sys {0}/sys",
            "mount -t tmpfs tmpfs {0}/run", "mount -t tmpfs tmpfs {0}/tmp", "mount -t tmpfs tmpfs {0}/var/tmp",
            "mkdir -p {0}{1}", "mount --bind {1} {0}{1}", 'exec chroot {0} sh -ec "$1"',
        ]  # fmt: skip
        steps = into if self.root != Path("/") else ['exec sh -ec "$1"']
        words = ["unshare", "-m", "sh", "-ec", "\n".join(steps).format(self.root, self.folder), "-", script]
        environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), "LC_ALL": "C.UTF-8",
            "CONTAINERS_STORAGE_CONF": f"{self.folder}/storage.conf", "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, env=environ, timeout=120)
        if "driver" in done.stderr and "not supported" in done.stderr:
            pytest.skip(f"podman has no overlay here: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pull(self, reference: str) -> Tree:
        """Pull an image and return its tree, but for the root folder, whose permissions podman sets itself."""
        own = f"--cgroup-manager cgroupfs --events-backend none --tmpdir {self.folder}/tmp"
        self(
            f"podman {own} pull -q --tls-verify=false --signature-policy {self.folder}/policy.json {reference}\n"
            f"mounted=$(podman {own} image mount {reference})\n"
            f"tar --numeric-owner -C $mounted -cf {self.folder}/tree.tar .\npodman {own} image umount {reference}"
        )
        return without_root(tree((self.folder / "tree.tar").read_bytes()))

    def close(self) -> None:
        subprocess.run(["rm", "-rf", self.folder], check=True)


def with_old_names(place: Place, name: str, at: Path) -> str:
    """Push an image with annotations of the names that Debian 12's podman looks for."""
    layout = at / name
    shutil.copytree(place.layout(name), layout)
    index = json.loads((layout / "index.json").read_bytes())
    old = layout / "blobs/sha256" / index["manifests"][0]["digest"][7:]
    data = old.read_bytes().replace(ANNOTATION.encode(), OLD_NAMES.encode())
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    index["manifests"][0] |= {"digest": f"sha256:{digest}", "size": len(data)}
    (layout / "index.json").write_text(json.dumps(index))
    reference = f"{place.registry.host}/old-names/{name}:1"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}", f"docker://{reference}"],
        check=True,
    )  # fmt: skip
    return f"old-names/{name}:1"


def pulled(place: Place, podman: Podman, references: Sequence[str]) -> list[tuple[Tree, int]]:
    """Pull these, one after the other, through a proxy: the tree of each, and the bytes that came."""
    proxy = Proxy(place.registry.host)
    found = []
    try:
        for reference in references:
            before = proxy.down
            found.append((podman.pull(f"{proxy.host}/{reference}"), proxy.down - before))
    finally:
        proxy.close()
        podman.close()
    return found


def contents(found: Tree) -> dict[str, tuple[Any, ...]]:
    """Kind, permissions and content of each member: what Debian 12's podman keeps of a table."""
    return {name: (m[0], m[1], m[-1]) for name, m in found.items()}


def test_debian_12s_podman_takes_all_of_it_rightly(place: Place) -> None:
    """It does not know today's names, and so it pulls a layer like any other: owners and times are right."""
    needs("podman")
    needs_root()
    (old, _), (new, came) = pulled(place, Podman(), ("t/old:1", "t/new:1"))
    assert old == place.tree("old") and new == place.tree("new")
    assert came >= place.manifest("new")["layers"][0]["size"] or _version() >= (4, 4)


def _version() -> tuple[int, ...]:
    told = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(n) for n in told.split()[-1].split(".")[:2])


def test_debian_12s_podman_fetches_a_part_by_the_names_it_knows(place: Place, tmp_path: Path) -> None:
    needs("podman", "skopeo")
    needs_root()
    if _version() >= (4, 4):
        pytest.skip("this podman knows other names")
    references = [with_old_names(place, name, tmp_path) for name in ("old", "new")]
    (old, all_of_it), (new, came) = pulled(place, Podman(), references)
    assert contents(old) == contents(place.tree("old")) and contents(new) == contents(place.tree("new"))
    size = place.manifest("new")["layers"][0]["size"]
    assert all_of_it > size / 2 and came < 0.15 * size


@pytest.mark.archive
def test_debian_13s_podman_fetches_a_part_and_makes_the_layer_again(place: Place, store: Path, tmp_path: Path) -> None:
    """It compares table, tar-split and every digest; what it saves again has the diff-id of our layer."""
    needs_root()
    system = tmp_path / "system.yaml"
    system.write_text(
        "{version: 1, name: system, distro: debian, suite: trixie, arch: [amd64], outputs: [dir],"
        " packages: {variant: minbase, include: [podman]}}\n"
    )
    build(system, tmp_path / "out", store)
    podman = Podman(tmp_path / "out/system/amd64/rootfs")
    proxy = Proxy(place.registry.host)
    try:
        assert podman.pull(f"{proxy.host}/t/old:1") == place.tree("old")
        before = proxy.down
        assert podman.pull(f"{proxy.host}/t/new:1") == place.tree("new")
        size = place.manifest("new")["layers"][0]["size"]
        assert before > size / 2 and proxy.down - before < 0.15 * size
        podman(f"podman save -q --format oci-dir -o {podman.folder}/saved {proxy.host}/t/new:1")
        saved = podman.folder / "saved"
        index = json.loads((saved / "index.json").read_bytes())
        manifest = json.loads((saved / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_bytes())
        (layer,) = manifest["layers"]
        data = (saved / "blobs/sha256" / layer["digest"][7:]).read_bytes()
        import zlib

        plain = zlib.decompress(data, 31) if layer["mediaType"].endswith("gzip") else data
        config = json.loads((place.layout("new") / "blobs/sha256" / _config(place.layout("new"))).read_bytes())
        assert ["sha256:" + hashlib.sha256(plain).hexdigest()] == config["rootfs"]["diff_ids"]
    finally:
        proxy.close()
        podman.close()


def _config(layout: Path) -> str:
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads((layout / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_bytes())
    return str(manifest["config"]["digest"])[7:]


@pytest.fixture(scope="module", params=["single", "source"])
def case(request: pytest.FixtureRequest, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("same")
    layers = {"layers": {"by": "single"} if request.param == "single" else {"by": "source", "budget": 3}}
    recipe(place.archive, folder / "recipe", "same", **layers)
    made = Case(request.param, folder)
    mkroot("build", folder / "recipe/same.yaml", "-o", folder / "out", store=folder / "store")
    made.first = digests(folder / "out")
    return made


@pytest.mark.counts("rebuild")
@pytest.mark.parametrize("how", ["an-empty-store", "a-warm-store", "one-processor", "another-user"])
def test_the_same_bytes(case: Case, how: str, tmp_path: Path) -> None:
    if how == "another-user":
        assert told(as_somebody_else(case, tmp_path), case.first) == ""
        return
    before = ("taskset", "-c", "0") if how == "one-processor" else ()
    needs(*before[:1])
    stored = case.store(tmp_path / "store", packages=how != "an-empty-store", stages=how == "a-warm-store")
    recipe = case.recipe(tmp_path / "recipe")
    mkroot("build", recipe, "-o", tmp_path / "out", "--locked", store=stored, before=before)
    assert told(digests(tmp_path / "out"), case.first) == ""
