"""Pulling: what arrives is what was pushed, and a registry that breaks off, lies or refuses leaves nothing behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from mkroot.errors import ImageError, MkrootError
from mkroot.oci.model import DOCKER_LAYER, DOCKER_MANIFEST, INDEX
from mkroot.oci.reference import Reference
from mkroot.oci.registry import pull as pull_module
from mkroot.oci.registry.pull import Wanted, pull
from mkroot.oci.registry.registry import Registry
from mkroot.oci.registry.repository import Repository
from mkroot.oci.registry.trust import Trust
from mkroot.progress import Progress
from tests.unit.commands import Program
from tests.unit.registryimages import AMD64, BIG, a_store, an_image, blobs, environ, nothing_kept, pulled, pushed
from tests.unit.registryserver import MANIFEST, MemoryRegistry, Request, digest_of, memory_registry

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with memory_registry() as found:
        yield found


def served(registry: MemoryRegistry, folder: Path, **kind: object) -> str:
    """Have the registry serve an image; return its reference. What was asked for until then is forgotten."""
    reference = f"{registry.host}/team/box:1"
    source = a_store(folder / "source")
    an_image(source, reference, **kind)  # type: ignore[arg-type]
    pushed(source, reference)
    registry.requests.clear()
    return reference


def test_what_is_pulled_is_what_was_pushed(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    here = a_store(tmp_path / "here")
    result = pulled(here, reference)
    assert blobs(here) == blobs(a_store(tmp_path / "source"))
    image = here.load(here.find(reference))
    assert image.digest == result.digest and image.descriptor.platform is not None
    assert (result.received, result.there) == (sum(d.size for d in (image.manifest.config, *image.manifest.layers)), 0)
    assert all(here.layout().path(d.digest).stat().st_mode & 0o777 == 0o644 for d in image.manifest.layers)
    before = len(registry.asked("GET", "/blobs/"))
    again = pulled(here, reference)
    assert again.received == 0 and again.there == result.received
    assert len(registry.asked("GET", "/blobs/")) == before


def test_by_digest_alone_the_image_stays_without_a_tag(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    digest = a_store(tmp_path / "source").find(reference).digest
    here = a_store(tmp_path / "here")
    for _ in range(2):
        pulled(here, f"{registry.host}/team/box@{digest}")
    assert [d.digest for d in here.layout().index().manifests] == [digest] and not here.references(digest)
    here.collect()
    assert here.load(here.find(digest)).digest == digest


def test_docker_media_types(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(
        registry, tmp_path, layer_type=DOCKER_LAYER, config_type=DOCKER_CONFIG, manifest_type=DOCKER_MANIFEST
    )
    here = a_store(tmp_path / "here")
    pulled(here, reference)
    assert here.find(reference).media_type == DOCKER_MANIFEST


def test_nobody_collects_blobs_meanwhile(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    here = a_store(tmp_path / "here")
    held: list[bool] = []

    def look(request: Request) -> bool:
        if "/blobs/" in request.path:
            with open(here.store.root / "locks" / "images-blobs") as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held.append(False)
                except BlockingIOError:
                    held.append(True)
        return False

    registry.faults.append(look)
    pulled(here, reference)
    assert held and all(held)


# An unreliable registry


def half(request: Request) -> None:
    """Send the first half of a blob, then break off."""
    data = request.registry.blobs["team/box"][request.split.path.rpartition("/")[2]]
    start = int(request.headers.get("Range", "bytes=0-")[6:-1])
    middle = start + (len(data) - start) // 2
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    request.send_header("Content-Length", str(len(data) - start))
    request.end_headers()
    request.wfile.write(data[start:middle])
    request.wfile.flush()
    request.connection.shutdown(1)
    request.close_connection = True


@pytest.mark.counts("fault")
def test_a_transfer_that_breaks_goes_on_where_it_broke(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    ranges: list[str] = []

    def note(request: Request) -> bool:
        if digest_of(BIG) in request.path:
            ranges.append(request.headers.get("Range", ""))
        return False

    registry.faults.append(note)
    registry.once("GET", digest_of(BIG), half, times=3)
    here = a_store(tmp_path / "here")
    pulled(here, reference)
    assert here.layout().path(digest_of(BIG)).read_bytes() == BIG
    size = len(BIG)
    assert ranges == ["", f"bytes={size // 2}-", f"bytes={size // 2 + size // 4}-", f"bytes={size - size // 8}-"]


def test_a_registry_without_ranges_is_read_from_the_start(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    registry.ranges = False
    registry.once("GET", digest_of(BIG), half)
    here = a_store(tmp_path / "here")
    pulled(here, reference)
    assert here.layout().path(digest_of(BIG)).read_bytes() == BIG


@pytest.mark.counts("fault")
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_pass_is_tried_again(registry: MemoryRegistry, tmp_path: Path, status: int) -> None:
    reference = served(registry, tmp_path)
    for part in ("/v2/", "/manifests/", "/blobs/"):
        registry.once("GET", part, lambda r: r.refuse(status, "TOOMANYREQUESTS", Retry_After="0"), times=2)
    here = a_store(tmp_path / "here")
    assert pulled(here, reference).received


@pytest.mark.counts("fault")
def test_patience_ends(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    registry.once("GET", digest_of(BIG), lambda r: r.cut(), times=100)
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match=r"no luck after 5 attempts: .*"):
        pulled(here, reference)
    assert nothing_kept(here) and len(registry.asked("GET", digest_of(BIG))) < 20


# A lying registry


def with_blob(data: Callable[[bytes], bytes], **headers: str) -> Callable[[MemoryRegistry], None]:
    """The big layer is sent as something else."""

    def change(registry: MemoryRegistry) -> None:
        registry.once("GET", digest_of(BIG), lambda r: r.answer(200, data(BIG), **headers), times=100)

    return change


def without_length(data: Callable[[bytes], bytes]) -> Callable[[MemoryRegistry], None]:
    """The big layer is sent without its length, until the connection closes."""

    def deal(request: Request) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(data(BIG))
        request.close_connection = True

    return lambda registry: registry.once("GET", digest_of(BIG), deal, times=100)


def with_manifest(change: Callable[[bytes], bytes], kind: str = MANIFEST) -> Callable[[MemoryRegistry], None]:
    def replace(registry: MemoryRegistry) -> None:
        key = ("team/box", "1")
        registry.manifests[key] = kind, change(registry.manifests[key][1])

    return replace


def edited(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **changes}).encode()


LIES: dict[str, tuple[Callable[[MemoryRegistry], None], str]] = {
    "another content": (with_blob(lambda b: b[::-1]), r"sends something else: its digest is sha256:"),
    "a shorter one": (with_blob(lambda b: b[:-1]), r"offers a blob of 2999999 bytes where 3000000 were promised"),
    "a longer one": (with_blob(lambda b: b + b"x"), r"offers a blob of 3000001 bytes where 3000000 were promised"),
    "more than it says": (without_length(lambda b: b + b"x" * 9), r"sends more than the 3000000 bytes promised"),
    "less than it says": (without_length(lambda b: b[:-9]), r"sends 2999991 bytes where 3000000 were promised"),
    "no such blob": (
        lambda registry: registry.once("GET", digest_of(BIG), lambda r: r.refuse(404, "BLOB_UNKNOWN"), times=9),
        r"does not have a blob that its manifest names",
    ),
    "a web page": (with_manifest(lambda _: b"<html>", "text/html"), r"a manifest that is not JSON"),
    "another type": (
        with_manifest(edited(mediaType="text/plain")),
        r"neither a manifest nor an index, but `text/plain`",
    ),
    "both kinds": (with_manifest(edited(manifests=[])), r"neither a manifest nor an index"),
    "schema 1": (with_manifest(edited(schemaVersion=1)), r"Docker's schema 1"),
    "an empty manifest": (with_manifest(lambda _: b"{}"), r"neither a manifest nor an index"),
    "a huge manifest": (with_manifest(lambda d: d + b" " * (5 << 20)), r"a manifest of more than"),
    "no config": (with_manifest(edited(config=None)), r"not an image manifest"),
    "a chart": (
        with_manifest(edited(config={"mediaType": "application/x.chart", "digest": "sha256:" + "0" * 64, "size": 2})),
        r"this is no image, but `application/x.chart`",
    ),
    "unknown layers": (
        with_manifest(edited(layers=[{"mediaType": "a/b", "digest": "sha256:" + "0" * 64, "size": 2}])),
        r"a layer of an unknown kind: `a/b`",
    ),
    "a bad digest": (
        with_manifest(
            edited(
                layers=[{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:../../x", "size": 2}]
            )
        ),
        r"a digest that is not sha256",
    ),
    "a huge config": (
        with_manifest(edited(config={"mediaType": DOCKER_CONFIG, "digest": "sha256:" + "0" * 64, "size": 9 << 30})),
        r"a config of 9663676416 bytes",
    ),
    "a bad digest in an index": (
        with_manifest(
            lambda _: json.dumps(
                {
                    "schemaVersion": 2,
                    "manifests": [
                        {
                            "mediaType": MANIFEST,
                            "digest": "sha256:../../../_catalog",
                            "size": 2,
                            "platform": {"architecture": "amd64", "os": "linux"},
                        }
                    ],
                }
            ).encode(),
            INDEX,
        ),
        r"a digest that is not sha256",
    ),
    "a wrong digest told": (
        lambda registry: registry.once(
            "GET",
            "/manifests/",
            lambda r: r.answer(
                200,
                registry.manifests["team/box", "1"][1],
                Content_Type=MANIFEST,
                Docker_Content_Digest="sha256:" + "0" * 64,
            ),
        ),
        r"sends something else than sha256:0000",
    ),
}


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_told_and_nothing_is_kept(registry: MemoryRegistry, tmp_path: Path, lie: str) -> None:
    reference = served(registry, tmp_path)
    change, message = LIES[lie]
    change(registry)
    here = a_store(tmp_path / "here")
    with pytest.raises(MkrootError, match=message):
        pulled(here, reference)
    assert nothing_kept(here)


@pytest.mark.counts("trust-refused")
def test_a_digest_is_a_promise(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    digest = a_store(tmp_path / "source").find(reference).digest
    kind, data = registry.manifests["team/box", digest]
    registry.manifests["team/box", digest] = kind, data + b" "
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match="sends something else than " + digest):
        pulled(here, f"{registry.host}/team/box@{digest}")
    assert nothing_kept(here)


@pytest.mark.counts("trust-refused")
def test_layers_without_a_diff_id_are_refused(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path, diff_ids=3)
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match="the config names 3 layers, the manifest 2"):
        pulled(here, reference)
    assert nothing_kept(here) and not registry.asked("GET", digest_of(BIG))


# Several architectures


def an_index(registry: MemoryRegistry, folder: Path) -> str:
    reference = f"{registry.host}/team/many:1"
    source = a_store(folder / "source")
    children = [an_image(source, layers=(a.encode(), BIG), architecture=a) for a in ("amd64", "arm64")]
    source.tag_platforms(children, Reference.parse(reference))
    pushed(source, reference)
    registry.requests.clear()
    return reference


def test_of_an_index_the_wanted_image_is_pulled(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = an_index(registry, tmp_path)
    here = a_store(tmp_path / "here")
    pulled(here, reference, Wanted(architecture="arm64"))
    assert here.load(here.find(reference)).config.architecture == "arm64"
    assert digest_of(b"amd64") not in blobs(here)


def test_the_index_itself_with_all_its_images(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = an_index(registry, tmp_path)
    here = a_store(tmp_path / "here")
    result = pulled(here, reference, msgspec.structs.replace(AMD64, every=True))
    assert blobs(here) == blobs(a_store(tmp_path / "source"))
    assert here.find(reference).digest == result.digest == a_store(tmp_path / "source").find(reference).digest
    assert here.load(here.find(reference, "arm64")).config.architecture == "arm64"


@pytest.mark.counts("trust-refused")
def test_an_index_of_no_end_of_manifests_is_not_taken(
    registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = an_index(registry, tmp_path)
    monkeypatch.setattr(pull_module, "DOCUMENTS", 900)
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match="more than 0 MiB of manifests"):
        pulled(here, reference, msgspec.structs.replace(AMD64, every=True))
    assert nothing_kept(here)


def test_a_statement_in_an_index_is_kept_and_never_chosen(registry: MemoryRegistry, tmp_path: Path) -> None:
    """BuildKit writes what it knows of an image beside it, as a manifest for an unknown platform."""
    reference = f"{registry.host}/team/stated:1"
    source = a_store(tmp_path / "source")
    statement = an_image(source, layers=(b"{}",), architecture="unknown", layer_type="application/vnd.in-toto+json")
    source.tag_platforms([an_image(source), statement], Reference.parse(reference))
    pushed(source, reference)
    here = a_store(tmp_path / "here")
    pulled(here, reference, msgspec.structs.replace(AMD64, every=True))
    assert blobs(here) == blobs(source) and len(here.images()) == 1
    with pytest.raises(ImageError, match="is not there for arm64") as e:
        pulled(here, reference, Wanted(architecture="arm64"))
    assert e.value.hint and "there is: amd64;" in e.value.hint


def test_the_message_says_which_architectures_there_are(registry: MemoryRegistry, tmp_path: Path) -> None:
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match="is not there for riscv64") as e:
        pulled(here, an_index(registry, tmp_path), Wanted(architecture="riscv64"))
    assert e.value.hint and "there is: amd64, arm64;" in e.value.hint
    with pytest.raises(ImageError, match="the image is for armhf, not for amd64") as e:
        pulled(here, served(registry, tmp_path / "other", architecture="arm"))
    assert e.value.hint == "`--arch armhf` pulls it all the same"
    assert nothing_kept(here)


# An end on the way


@pytest.mark.counts("fault")
def test_a_pull_that_is_interrupted_leaves_nothing(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    sent, over = threading.Event(), threading.Event()

    def slow(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(BIG)))
        request.end_headers()
        request.wfile.write(BIG[: len(BIG) // 2])
        request.wfile.flush()
        sent.set()
        over.wait(30)
        request.close_connection = True

    registry.once("GET", digest_of(BIG), slow)
    program = Program(tmp_path)
    try:
        with program.started("pull", reference) as process:
            assert sent.wait(30)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 130
    finally:
        over.set()
    images = a_store(tmp_path / "store")
    assert not blobs(images) and not images.layout().index().manifests
    done = program("pull", reference)
    assert done.status == 0 and done.out.startswith(f"{reference}@sha256:"), done.err
    assert not list((images.store.root / "tmp").iterdir())


# What is not there


def test_a_tag_that_is_not_there(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match="has no tag `11`") as e:
        pulled(here, reference + "1")
    assert e.value.hint == "its tags: `1`"
    with pytest.raises(ImageError, match="has no repository `team/bx`"):
        pulled(here, reference.replace("box", "bx"))
    with pytest.raises(ImageError, match="has no image sha256:000"):
        pulled(here, f"{registry.host}/team/box@sha256:{'0' * 64}")


@pytest.mark.counts("fault")
def test_nobody_answers(tmp_path: Path) -> None:
    here = a_store(tmp_path / "here")
    with memory_registry() as gone:
        pass
    with pytest.raises(
        ImageError, match=r"does not answer: no connection to `127\.0\.0\.1:\d+` \(Connection refused\)"
    ):
        pulled(here, f"{gone.host}/box:1")
    with pytest.raises(ImageError, match=r"the host `nowhere\.invalid` is not known"):
        pulled(here, "nowhere.invalid/box:1")


@pytest.mark.counts("fault")
def test_something_else_answers(registry: MemoryRegistry, tmp_path: Path) -> None:
    registry.once("GET", "/v2/", lambda r: r.answer(404, b"<html>not here</html>"))
    with pytest.raises(ImageError, match="this is not a registry: the registry answers with status 404"):
        pulled(a_store(tmp_path / "here"), f"{registry.host}/box:1")


# Elsewhere


def test_through_a_proxy(registry: MemoryRegistry, tmp_path: Path) -> None:
    """The registry stands in for one: it is asked for whole addresses, and cannot open a tunnel."""
    served(registry, tmp_path)
    sent: list[tuple[str, str | None]] = []
    registry.faults.append(lambda r: bool(sent.append((r.path, r.headers.get("Proxy-Authorization")))))  # type: ignore[func-returns-value]
    here = a_store(tmp_path / "here")
    through = {f"{scheme}_proxy": f"http://me:secret@{registry.host}" for scheme in ("http", "https")}
    place = Reference.parse("registry.example/team/box:1")
    with Registry(place.host, environ(here) | through, trust=Trust(insecure=True)) as remote:
        pull(here.store, place, remote, AMD64, Progress())
    assert here.find(str(place)) and all(path.startswith("http://registry.example/v2/") for path, _ in sent)
    assert {login for _, login in sent} == {"Basic bWU6c2VjcmV0"}


@pytest.mark.counts("trust-refused")
def test_no_login_is_carried_to_where_a_blob_lies(registry: MemoryRegistry, tmp_path: Path) -> None:
    reference = served(registry, tmp_path)
    with memory_registry() as elsewhere:
        elsewhere.blobs = registry.blobs
        to = f"http://{elsewhere.host}"
        registry.faults.append(lambda r: "/blobs/" in r.path and (r.answer(307, Location=to + r.path), True)[1])
        registry.faults.append(basic)
        here = a_store(tmp_path / "here")
        home = here.store.root / "home" / ".docker"
        home.mkdir(parents=True)
        (home / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": "bWU6c2VjcmV0"}}}))
        pulled(here, reference)
        assert elsewhere.asked("GET", digest_of(BIG))
        assert {sent for _, _, sent in elsewhere.requests} == {""}
        assert {sent for m, p, sent in registry.requests if "/blobs/" in p} == {"Basic bWU6c2VjcmV0"}


def basic(request: Request) -> bool:
    """Want a login, like a registry with a password file."""
    if request.headers.get("Authorization") == "Basic bWU6c2VjcmV0":
        return False
    request.body()
    request.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="test"')
    return True


@pytest.mark.counts("trust-refused")
def test_a_redirect_out_of_tls_is_not_followed(tmp_path: Path) -> None:
    registry = Registry("registry.example", environ(a_store(tmp_path)))
    here = "https://registry.example/v2/x"
    assert registry.target(here, "/v2/y?a=b") == "https://registry.example/v2/y?a=b"
    assert registry.target(here, "http://registry.example/v2/y") == "https://registry.example/v2/y"
    assert registry.target(here, "http://REGISTRY.example/v2/y") == "https://REGISTRY.example/v2/y"
    assert registry.target(here, "https://blobs.example/y") == "https://blobs.example/y"
    with pytest.raises(ImageError, match="out of TLS"):
        registry.target(here, "http://blobs.example/y")


@pytest.mark.counts("trust-refused")
@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "http://[",
        "http://a.example:x/",
        "https://a.example/a b",
        "https://a.example/ä",
        "https:///x",
    ],
)
def test_a_redirect_to_no_web_address(registry: MemoryRegistry, tmp_path: Path, location: str) -> None:
    reference = served(registry, tmp_path)
    registry.once("GET", digest_of(BIG), lambda r: r.answer(307, Location=location.encode().decode("latin-1")), times=9)
    here = a_store(tmp_path / "here")
    with pytest.raises(ImageError, match="is no web address"):
        pulled(here, reference)
    assert nothing_kept(here)


def test_a_list_of_tags_on_several_pages(registry: MemoryRegistry, tmp_path: Path) -> None:
    source = a_store(tmp_path / "source")
    one = an_image(source, layers=(b"x",))
    for n in range(5):
        pushed(source, f"{registry.host}/team/box:{n}", one)
    registry.page = 2
    with Registry(registry.host, environ(source)) as remote:
        assert Repository(remote, "team/box").tags() == list("01234")
