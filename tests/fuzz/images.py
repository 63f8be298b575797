"""Targets of what images, registries and the users of both write."""

from __future__ import annotations

import contextlib
import tempfile
from functools import cache
from pathlib import Path

from mkroot.container import wish
from mkroot.errors import ImageError, UsageError
from mkroot.oci import model
from mkroot.oci.dockerarchive import docker_images
from mkroot.oci.instructions import changed
from mkroot.oci.members import archive_members
from mkroot.oci.reference import Reference
from mkroot.oci.registry.access import parse as parse_challenge
from mkroot.oci.registry.credentials import Credentials
from mkroot.oci.registry.wire import web_address
from mkroot.tar.stream import Corrupt
from tests.fuzz.target import Target
from tests.testarchive import Raw, member, tar

LAYER = tar([Raw(member("etc/motd"), b"hi\n")])


def documents(data: bytes) -> None:
    """The image specification's documents: what is read is written to something that reads the same."""
    fault: ImageError | None = None
    taken = False
    for read in (model.decode_index, model.decode_manifest, model.decode_config):
        try:
            found = read(data, "d")
        except ImageError as e:
            fault = e
            continue
        taken = True
        assert read(model.encode(found), "d") == found
        if isinstance(found, model.Config):
            assert all(model.seconds(text) >= 0 for text in (found.created, *(row.created for row in found.history)))
        if isinstance(found, model.Manifest):
            assert all(model.oci_layer(layer).digest == layer.digest for layer in found.layers)
    with contextlib.suppress(ImageError):
        assert model.decode_kind(data, "d")
    if fault is not None and not taken:
        raise fault


def reference(data: bytes) -> None:
    """A reference: as written, it reads the same again."""
    text = data.decode("utf-8", "surrogateescape")
    found = Reference.parse(text)
    assert Reference.parse(str(found)) == found
    assert found.tag or found.digest
    assert len(found.name) <= 256
    assert found.is_loopback in (True, False)
    assert ".." not in found.path.split("/") and not found.path.startswith("/")


def docker(data: bytes) -> None:
    """The manifest.json and the config of `docker save`, which a zero byte separates."""
    manifest, _, config = data.partition(b"\0")
    members = {"manifest.json": manifest, "config.json": config, "layer.tar": LAYER}
    for image in docker_images({name: memoryview(value) for name, value in members.items()}, "a.tar"):
        assert len(image.layers) == len(image.config.rootfs.diff_ids)


def members(data: bytes) -> None:
    """The files of an archive that holds images: views of it, nothing else."""
    place = _folder() / "a.tar"
    place.write_bytes(data)
    try:
        with archive_members(place) as found:
            for name, view in found.items():
                assert bytes(view) in data
                assert ".." not in name.split("/")
    except (Corrupt, ValueError, OSError) as e:
        raise ImageError(f"not an archive: {e}") from None


def challenge(data: bytes) -> None:
    """A header WWW-Authenticate, and the address in it."""
    found = parse_challenge(data.decode("latin-1").split("\n"))
    assert found.scheme in ("", "basic", "bearer")
    assert bool(found.realm) == (found.scheme == "bearer")
    if found.realm:
        split = web_address(found.realm)
        assert split.scheme in ("http", "https") and split.hostname


def instructions(data: bytes) -> None:
    """`-c` of commit and import, a line each, on a config that has a bit of everything."""
    config = {"Env": ["PATH=/bin", "A=1"], "Cmd": ["x"], "Labels": {"a": "b"}, "WorkingDir": "/srv", "Shell": 5}
    found = changed(config, data.decode("utf-8", "surrogateescape").split("\n"))
    whole = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": found}
    model.decode_config(model.encode(whole), "the config that comes of it")
    assert found.get("WorkingDir", "/").startswith("/")
    assert all("=" in line for line in found["Env"])


def wishes(data: bytes) -> None:
    """Options of `run`: -v, -e, --memory, --hostname and a signal's name, of the same text."""
    text = data.decode("utf-8", "surrogateescape").replace("\0", "")  # which no command line can hold
    refused = []
    for read in (_volume, wish.parse_memory, wish.check_hostname, _environment):
        try:
            read(text)
        except UsageError as e:
            refused.append(e)
    number = wish.signal_number(text)
    assert number is None or 0 < number <= 64
    if len(refused) == 4:
        raise refused[0]


def _volume(text: str) -> None:
    found = wish.parse_volume(text, "/work")
    assert found.host.startswith("/") and found.path.startswith("/") and ".." not in found.path.split("/")


def _environment(text: str) -> None:
    found = wish.parse_environment([text], [], {"HOME": "/root"})
    assert all(name and "=" not in name for name in found)


def logins(data: bytes) -> None:
    """Docker's config.json."""
    folder = _folder()
    (folder / "config.json").write_bytes(data)
    environ = {"DOCKER_CONFIG": str(folder), "HOME": str(folder), "PATH": str(folder)}
    found = Credentials(environ).find("registry.example", "team/app")
    assert found is None or repr(found) == f"Credential({found.user!r})", "a password that is shown"


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="mkroot-fuzz."))


_JSON = (
    b'"schemaVersion":2',
    b'"mediaType":',
    b'"manifests":[',
    b'"layers":[',
    b'"config":{',
    b'"digest":"sha256:',
    b'"size":',
    b'"rootfs":{"type":"layers","diff_ids":[]}',
    b'"architecture":"amd64"',
    b'"os":"linux"',
    b'"history":[',
    b"null",
)

TARGETS = (
    Target(name="documents", run=documents, words=_JSON, longest=2048),
    Target(
        name="reference",
        run=reference,
        words=(b"localhost", b":5000", b"/", b"@sha256:", b"0" * 64, b"[::1]", b"__", b"--", b":latest"),
        longest=400,
    ),
    Target(
        name="docker-archive",
        run=docker,
        words=(*_JSON, b'"Config":"config.json"', b'"Layers":["layer.tar"]', b'"RepoTags":["a:b"]'),
        longest=2048,
    ),
    Target(name="members", run=members),
    Target(
        name="challenge",
        run=challenge,
        words=(b"Bearer ", b"Basic ", b"realm=", b'"', b"\\", b",", b"service=", b"https://registry.example/token"),
        longest=512,
    ),
    Target(
        name="instructions",
        run=instructions,
        words=(
            b"CMD ",
            b"ENTRYPOINT ",
            b"ENV ",
            b"EXPOSE ",
            b"LABEL ",
            b"USER ",
            b"VOLUME ",
            b"WORKDIR ",
            b"${A}",
            b'["',
            b'"]',
        ),
        longest=512,
    ),
    Target(
        name="wishes",
        run=wishes,
        words=(b":ro", b"/srv", b"./", b"512M", b"1.5g", b"A=", b"SIGTERM", b"RTMIN+3", b"~", b"KILL"),
        longest=256,
    ),
    Target(
        name="logins",
        run=logins,
        words=(
            b'{"auths":{',
            b'"registry.example":{',
            b'"auth":"',
            b'"identitytoken":"',
            b'"credHelpers":{',
            b'"credsStore":',
        ),
        longest=1024,
    ),
)
