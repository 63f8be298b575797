"""Pushing: bytes kept, nothing sent twice, what names comes last, and a broken transfer goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mkroot import records
from mkroot.errors import ImageError
from mkroot.oci.build import ImageSettings
from mkroot.oci.model import INDEX
from mkroot.oci.outputs import write_build
from mkroot.oci.reference import Reference
from mkroot.oci.registry.attachments import attachments
from mkroot.oci.registry.pull import pull
from mkroot.oci.registry.push import push
from mkroot.oci.registry.referrers import attached, fallback_tag, keep, make_artifact
from mkroot.oci.registry.registry import Registry
from mkroot.oci.store import ImageStore
from mkroot.progress import Progress
from mkroot.store.seal import sealed
from tests.unit.registryimages import AMD64, BIG, a_store, an_image, environ, pulled, pushed
from tests.unit.registryserver import MemoryRegistry, Request, digest_of, memory_registry
from tests.unit.test_artifact_root import FACTS, small_root


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with memory_registry() as found:
        yield found


def tagged(registry: MemoryRegistry, images: ImageStore, name: str = "team/box:1") -> str:
    reference = f"{registry.host}/{name}"
    an_image(images, reference)
    return reference


def test_the_bytes_are_kept_and_the_tag_comes_last(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    result = pushed(images, reference)
    image = images.load(images.find(reference))
    assert registry.manifests["team/box", "1"][1] == images.layout().read(image.descriptor)
    assert digest_of(registry.manifests["team/box", "1"][1]) == result.digest == image.digest
    assert registry.blobs["team/box"].keys() == {d.digest for d in (image.manifest.config, *image.manifest.layers)}
    assert [m for m, _, _ in registry.requests].index("PUT") and "/manifests/1" in registry.asked("PUT")[-1]
    assert result.sent == sum(map(len, registry.blobs["team/box"].values()))
    assert len(registry.asked("POST")) == 3, "one upload a blob"


def test_a_second_push_sends_nothing(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    pushed(images, reference)
    registry.requests.clear()
    assert pushed(images, reference).sent == 0
    assert {m for m, _, _ in registry.requests} == {"GET", "HEAD"}


def test_a_new_tag_of_known_blobs_is_a_manifest_alone(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    pushed(images, tagged(registry, images))
    registry.requests.clear()
    pushed(images, tagged(registry, images, "team/box:2"))
    assert registry.asked("PUT") == ["/v2/team/box/manifests/2"] and not registry.asked("POST")


def test_blobs_of_another_repository_are_mounted(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    first = pushed(images, tagged(registry, images))
    registry.requests.clear()
    result = pushed(images, tagged(registry, images, "other:1"))
    assert (result.sent, result.mounted) == (0, first.sent)
    assert registry.asked("PUT") == ["/v2/other/manifests/1"]
    assert all("mount=sha256:" in path and "from=team/box" in path for path in registry.asked("POST"))


def test_a_wrong_memory_of_blobs_does_no_harm(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    pushed(images, tagged(registry, images))
    registry.blobs.clear()
    result = pushed(images, tagged(registry, images, "other:1"))
    assert result.mounted == 0 and registry.blobs["other"][digest_of(BIG)] == BIG


def test_an_index_comes_after_what_it_names(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    children = [an_image(images, layers=(a.encode(), BIG), architecture=a) for a in ("amd64", "arm64")]
    reference = f"{registry.host}/many:1"
    images.tag_platforms(children, Reference.parse(reference))
    pushed(images, reference)
    puts = registry.asked("PUT", "/manifests/")
    assert puts[-1] == "/v2/many/manifests/1" and set(puts[:-1]) == {f"/v2/many/manifests/{c.digest}" for c in children}
    assert registry.manifests["many", "1"][0] == INDEX
    assert len(registry.asked("POST")) == 5, "the layer that both have goes once"


# An unreliable registry


def swallow(count: int, *, remembered: bool) -> object:
    """Take so many bytes of an upload, then break off."""

    def deal(request: Request) -> None:
        data = request.body(count)
        if remembered:
            request.registry.uploads[request.split.path.rpartition("/")[2]] += data
        else:
            request.registry.uploads.clear()
        request.cut()

    return deal


def only_big(registry: MemoryRegistry, images: ImageStore) -> str:
    reference = f"{registry.host}/team/box:1"
    an_image(images, reference, layers=(BIG,))
    return reference


@pytest.mark.counts("fault")
def test_an_upload_that_breaks_goes_on_where_the_registry_is(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = only_big(registry, images)
    sizes: list[int] = []

    def note(request: Request) -> bool:
        if request.command in ("PUT", "PATCH") and "/blobs/" in request.path:
            sizes.append(int(request.headers["Content-Length"]))
        return False

    registry.faults.append(note)
    registry.once("PUT", digest_of(BIG), swallow(1_000_000, remembered=True))  # type: ignore[arg-type]
    registry.once("PATCH", "/uploads/", swallow(500_000, remembered=True))  # type: ignore[arg-type]
    pushed(images, reference)
    assert registry.blobs["team/box"][digest_of(BIG)] == BIG
    assert [n for n in sizes if n > 1000 or not n] == [3_000_000, 2_000_000, 1_500_000, 0]


@pytest.mark.counts("fault")
def test_an_upload_that_the_registry_forgot_begins_again(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = only_big(registry, images)
    registry.once("PUT", digest_of(BIG), swallow(1_000_000, remembered=False), times=2)  # type: ignore[arg-type]
    pushed(images, reference)
    assert registry.blobs["team/box"][digest_of(BIG)] == BIG


@pytest.mark.counts("fault")
def test_an_upload_goes_through_trouble_of_the_registry(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = only_big(registry, images)

    def trouble(request: Request) -> None:
        request.body()
        request.refuse(503, "UNAVAILABLE", Retry_After="0")

    registry.once("PUT", digest_of(BIG), trouble, times=3)
    pushed(images, reference)
    assert registry.blobs["team/box"][digest_of(BIG)] == BIG


@pytest.mark.counts("fault")
@pytest.mark.parametrize("remembered", [True, False])
def test_patience_ends(registry: MemoryRegistry, tmp_path: Path, remembered: bool) -> None:
    """Also with a registry that gets a little further each time, and then forgets all of it."""
    images = a_store(tmp_path)
    reference = only_big(registry, images)
    registry.once("PUT", digest_of(BIG), swallow(1_000_000, remembered=remembered), times=1000)  # type: ignore[arg-type]
    registry.once("PATCH", "", lambda r: (r.registry.uploads.clear(), r.cut()), times=1000)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="no luck after 5 attempts"):
        pushed(images, reference)
    assert ("team/box", "1") not in registry.manifests and len(registry.requests) < 60


def test_progress_is_told_of_every_byte_once(registry: MemoryRegistry, tmp_path: Path) -> None:
    """Whatever is sent again, the bar ends at its end."""

    class Counting(Progress):
        total: int | None = 0
        done = most = 0

        def begin(self, name: str, total: int | None, unit: str) -> None:
            self.total = total

        def advance(self, amount: int, item: str = "") -> None:
            self.done += amount
            self.most = max(self.most, self.done)

    images = a_store(tmp_path)
    reference = only_big(registry, images)
    registry.once("PUT", digest_of(BIG), swallow(1_000_000, remembered=False))  # type: ignore[arg-type]
    registry.once("PUT", digest_of(BIG), swallow(1_000_000, remembered=True))  # type: ignore[arg-type]
    progress = Counting()
    with Registry(registry.host, environ(images), backoff=0.001) as remote:
        push(images.store, images.find(reference), Reference.parse(reference), remote, progress)
    assert progress.total == progress.done == progress.most and progress.done > len(BIG)


# Refusals


@pytest.mark.counts("fault")
def test_a_damaged_blob_of_the_store_is_told(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = only_big(registry, images)
    images.layout().path(digest_of(BIG)).write_bytes(BIG[::-1])
    with pytest.raises(ImageError, match="provided digest did not match") as e:
        pushed(images, reference)
    assert e.value.hint and "mkroot cache verify" in e.value.hint
    images.layout().path(digest_of(BIG)).write_bytes(BIG[:-1])
    with pytest.raises(ImageError, match="has 2999999 bytes, its descriptor says 3000000"):
        pushed(images, reference)


def test_a_push_that_is_not_allowed(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    registry.once("POST", "", lambda r: r.refuse(403, "DENIED", "requested access is denied"), times=9)
    with pytest.raises(ImageError, match=r"wants a login for this \(requested access is denied\)"):
        pushed(images, reference)
    home = images.store.root / "home" / ".docker"
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": "bWU6c2VjcmV0"}}}))
    registry.once("POST", "", lambda r: r.refuse(403, "DENIED"), times=9)
    with pytest.raises(ImageError, match="does not let `me` push to this repository") as e:
        pushed(images, reference)
    assert "secret" not in str(e.value) and ("team/box", "1") not in registry.manifests


def test_words_of_a_registry_hold_no_control_characters(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    registry.once("PUT", "/manifests/", lambda r: (r.body(), r.refuse(400, "INVALID", "\x1b[31m" + "x" * 9999))[1])
    with pytest.raises(ImageError, match="the manifest cannot be stored") as e:
        pushed(images, reference)
    assert "\x1b" not in str(e.value) and len(str(e.value)) < 1000


# What goes along


@pytest.mark.parametrize("lists", [True, False])
def test_artifacts_refer_to_the_image_and_come_with_it(registry: MemoryRegistry, tmp_path: Path, lists: bool) -> None:
    registry.lists_referrers = lists
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    descriptor = images.find(reference)
    one = make_artifact(descriptor, "text/x-one", "one.txt", b"one", "2026-01-01T00:00:00Z")
    two = make_artifact(descriptor, "text/x-two", "two.txt", b"two")
    place = Reference.parse(reference)
    for _ in range(2):  # the second time, all of it is there
        with Registry(registry.host, environ(images)) as remote:
            result = push(images.store, descriptor, place, remote, Progress(), [one, two])
    assert result.digest == descriptor.digest and len(result.attached) == 2
    if not lists:
        rows = json.loads(registry.manifests["team/box", fallback_tag(descriptor.digest)][1])["manifests"]
        assert [(r["artifactType"], r["digest"]) for r in rows] == [
            ("text/x-one", result.attached[0]),
            ("text/x-two", result.attached[1]),
        ]
    here = a_store(tmp_path / "here")
    assert pulled(here, reference).artifacts == 2
    found = attached(here.store, descriptor.digest)
    assert [a.kind for a in found] == ["text/x-one", "text/x-two"]
    assert (found[0].folder / found[0].manifest.layers[0].hex).read_bytes() == b"one"
    assert [d.digest for d in here.layout().index().manifests] == [descriptor.digest], "artifacts are no images"


def test_an_artifact_of_another_image_is_passed_over(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    other = an_image(images, layers=(b"other",))
    with Registry(registry.host, environ(images)) as remote:
        place = Reference.parse(reference)
        push(images.store, images.find(reference), place, remote, Progress(), [make_artifact(other, "a/b", "n", b"x")])
    digest = images.find(reference).digest
    registry.manifests["team/box", fallback_tag(digest)] = registry.manifests["team/box", fallback_tag(other.digest)]
    here = a_store(tmp_path / "here")
    assert pulled(here, reference).artifacts == 0 and not attached(here.store, digest)


def test_a_registry_that_does_not_tell_of_artifacts(registry: MemoryRegistry, tmp_path: Path) -> None:
    """The image is pulled all the same; some registries deny what they do not know."""

    class Warned(Progress):
        lines: list[str] = []  # noqa: RUF012

        def warn(self, line: str) -> None:
            self.lines.append(line)

    images = a_store(tmp_path)
    reference = tagged(registry, images)
    pushed(images, reference)
    registry.once("GET", "/referrers/", lambda r: r.refuse(403, "DENIED"))
    here, place = a_store(tmp_path / "here"), Reference.parse(reference)
    with Registry(registry.host, environ(images)) as remote:
        assert pull(here.store, place, remote, AMD64, Warned()).artifacts == 0
    assert here.find(reference).digest == images.find(reference).digest
    assert "pulled without what refers to the image" in Warned.lines[0]


def test_artifacts_that_are_there_are_not_fetched_again(registry: MemoryRegistry, tmp_path: Path) -> None:
    images = a_store(tmp_path)
    reference = tagged(registry, images)
    descriptor = images.find(reference)
    one = make_artifact(descriptor, "text/x-one", "one.txt", b"one")
    with Registry(registry.host, environ(images)) as remote:
        push(images.store, descriptor, Reference.parse(reference), remote, Progress(), [one])
    here = a_store(tmp_path / "here")
    assert pulled(here, reference).artifacts == 1
    registry.requests.clear()
    assert pulled(here, reference).artifacts == 1 and not registry.asked("GET", "/blobs/")


def test_the_bill_of_an_image_is_the_same_each_time(tmp_path: Path) -> None:
    images = a_store(tmp_path / "store")
    settings = ImageSettings(tags=("box:1",))
    write_build(small_root(tmp_path / "store"), FACTS, settings, tmp_path / "out", ("oci",), images=images)
    descriptor = images.find("box:1")
    found = [attachments(images.store, images.layout(), descriptor, "team/box") for _ in range(2)]
    assert found[0] == found[1] and [a.kind for a in found[0]] == ["application/spdx+json"]
    (bill,) = found[0]
    kept = keep(images.store, bill)
    document = json.loads((kept.folder / kept.manifest.layers[0].hex).read_bytes())
    assert [p["versionInfo"] for p in document["packages"] if p["name"] == "a"] == ["1:2.0-1+b1"]
    assert kept.manifest.subject is not None and kept.manifest.subject.digest == descriptor.digest


def test_the_record_of_a_build_goes_along_where_the_store_has_one(tmp_path: Path) -> None:
    images = a_store(tmp_path / "store")
    settings = ImageSettings(tags=("box:1",))
    write_build(small_root(tmp_path / "store"), FACTS, settings, tmp_path / "out", ("oci",), images=images)
    descriptor = images.find("box:1")
    written = b'{"_type": "https://in-toto.io/Statement/v1"}\n'
    record = records.Record(
        architecture="amd64", scripts=True, layers=("ab" * 32,), lock=b'{"packages": []}\n', provenance=written
    )
    with images.store.writing(records.KIND, descriptor.hex) as aside:
        aside.write_bytes(sealed(msgspec.msgpack.encode(record)))
    _, build = attachments(images.store, images.layout(), descriptor, "team/box")
    assert build.kind == "application/vnd.in-toto+json"
    layer = json.loads(build.manifest.data)["layers"][0]
    assert layer["annotations"]["org.opencontainers.image.title"] == "provenance.json"
    assert build.blobs[layer["digest"]] == written, "the very file that stands beside the artifacts"
