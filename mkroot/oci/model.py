"""The documents of the image specification (image-spec 1.1): descriptor, index, manifest, config."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from mkroot.decoding import from_json
from mkroot.errors import ImageError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
INDEXES = (INDEX, DOCKER_INDEX)
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
REF_NAME = "org.opencontainers.image.ref.name"
CODECS = {"gzip": "+gzip", "zstd": "+zstd", "zstd:chunked": "+zstd", "none": ""}  # suffix of a layer's media type
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
T = TypeVar("T")
DOCUMENT_LIMIT = 4 << 20  # bytes of a manifest, index or config; registries refuse bigger ones

# Debian's architectures in Go's words (image-spec, "Image Index", platform)
PLATFORMS: dict[str, tuple[str, str]] = {
    "amd64": ("amd64", ""), "arm64": ("arm64", "v8"), "armhf": ("arm", "v7"), "armel": ("arm", "v5"),
    "i386": ("386", ""), "loong64": ("loong64", ""), "mips64el": ("mips64le", ""), "mipsel": ("mipsle", ""),
    "ppc64el": ("ppc64le", ""), "riscv64": ("riscv64", ""), "s390x": ("s390x", ""),
}  # fmt: skip


class Platform(Struct, frozen=True, omit_defaults=True):
    """What an image runs on, in the words of Go."""

    architecture: str
    os: str = field(default="linux")
    variant: str = ""
    os_version: str = field(name="os.version", default="")

    def to_dict(self) -> dict[str, str]:
        """Return it as an index writes it: the system is always named."""
        found = {"architecture": self.architecture, "os": self.os}
        return found | ({"variant": self.variant} if self.variant else {})


class Descriptor(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What points to a blob: kind, digest, size."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    data: str | None = None
    artifact_type: str | None = None

    @property
    def hex(self) -> str:
        """The digest's hexadecimal digits."""
        return self.digest.partition(":")[2]


class Index(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image index: images for several platforms, or all that a layout holds."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}


class Manifest(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An image manifest: one config, layers from the bottom up."""

    schema_version: int
    media_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}
    subject: Descriptor | None = None
    artifact_type: str | None = None


class History(Struct, frozen=True, omit_defaults=True):
    """How one layer, or one change of the config (`empty_layer`), came to be."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class Execution(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """How a container of the image is started (image-spec, config.md, `config`)."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""


class RootFS(Struct, frozen=True):
    """The uncompressed layers, from the bottom up."""

    type: str
    diff_ids: tuple[str, ...]


class Config(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image's config."""

    created: str = ""
    author: str = ""
    architecture: str
    variant: str = ""
    os: str
    config: Execution | None = None
    rootfs: RootFS
    history: tuple[History, ...] = ()


class IndexWritten(Struct, frozen=True, kw_only=True, rename="camel"):
    """An index as mkroot writes it: `schemaVersion` and `mediaType` always stand there."""

    schema_version: int = 2
    media_type: str = INDEX
    manifests: tuple[Any, ...]


class ManifestWritten(Struct, frozen=True, kw_only=True, rename="camel"):
    """A manifest as mkroot writes it."""

    schema_version: int = 2
    media_type: str = MANIFEST
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


def oci_layer(descriptor: Descriptor) -> Descriptor:
    """Return a layer as an OCI manifest names it: one of Docker's media types becomes the OCI one of the same bytes."""
    kind = descriptor.media_type
    if kind.startswith(DOCKER_LAYER):
        kind = LAYER + kind.removeprefix(DOCKER_LAYER).replace(".", "+")
    return Descriptor(
        media_type=kind,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,  # such as where the table of a zstd:chunked layer is
        urls=descriptor.urls,
    )


def named(descriptor: Descriptor, reference: str) -> Descriptor:
    """Return the descriptor as an index names it."""
    return Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        platform=descriptor.platform,
        annotations={REF_NAME: reference} if reference else {},
    )


def encode(document: object) -> bytes:
    """Return a document as compact JSON with sorted keys: one form, so that its digest depends on its content alone."""
    return msgspec.json.encode(document, order="sorted")


def decode_index(data: bytes, where: str) -> Index:
    """Read an index; raises ImageError."""
    return _decode(data, Index, "index", where)


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest; raises ImageError."""
    return _decode(data, Manifest, "manifest", where)


def decode_config(data: bytes, where: str) -> Config:
    """Read a config; raises ImageError."""
    return _decode(data, Config, "config", where)


class _Kind(Struct, frozen=True, rename="camel"):
    media_type: str = ""
    layers: list[msgspec.Raw] | None = None
    manifests: list[msgspec.Raw] | None = None


def decode_kind(data: bytes, where: str) -> str:
    """Return the media type of a manifest or an index, which need not say it itself; raises ImageError."""
    found = _decode(data, _Kind, "manifest or index", where)
    if (found.layers is None) == (found.manifests is None):
        raise ImageError("neither an image manifest nor an index", where=where)
    return found.media_type or (MANIFEST if found.manifests is None else INDEX)


def _decode(data: bytes, kind: type[T], what: str, where: str) -> T:
    try:
        return from_json(data, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise ImageError(f"not an image {what}: {e}", where=where) from None


def timestamp(seconds: int) -> str:
    """Return a time as RFC 3339 has it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> int:
    """Return the seconds since 1970 of a time in RFC 3339, UTC where it names no zone; 0 for none, or no time."""
    try:
        found = datetime.fromisoformat(text)
        return max(0, int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()))
    except (ValueError, OverflowError):
        return 0
