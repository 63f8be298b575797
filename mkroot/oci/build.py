"""Makes an image of a finished root: layers, config, manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct

from mkroot.artifact.outputs import Bench
from mkroot.errors import ImageError, RootfsError
from mkroot.oci.inherit import Parent, config_on, copy_layers, execution
from mkroot.oci.layout import Layout
from mkroot.oci.model import (
    CODECS,
    CONFIG,
    LAYER,
    MANIFEST,
    PLATFORMS,
    Config,
    Descriptor,
    Execution,
    History,
    ManifestWritten,
    Platform,
    RootFS,
    encode,
    timestamp,
)
from mkroot.rootfs.assembly import Group
from mkroot.store.frame import levelled

BUILT = "mkroot build"  # how the history of a build's layers begins
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TITLE = "org.opencontainers.image."


class ImageSettings(Struct, frozen=True, kw_only=True):
    """What the recipe says of the image; its key `image` has the meanings.

    tags: references without digest. parent: what it stands on. level: of the compression; None is its default, 0 the
    highest.
    """

    by: str = "single"
    budget: int = 10
    single_stream: bool = False
    compression: str = "gzip"
    level: int | None = None
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    user: str = ""
    workdir: str = ""
    labels: Mapping[str, str] = {}
    tags: tuple[str, ...] = ()
    parent: Parent | None = None


class Built(Struct, frozen=True, kw_only=True):
    """An image that stands in a layout.

    manifest, config: descriptors; the manifest's names the platform. layers: from the bottom up, a parent's first;
    raw_sizes: bytes of each own one, uncompressed. size: bytes of all blobs.
    """

    layout: Layout
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    raw_sizes: tuple[int, ...]
    config_data: bytes

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob once, in order of digests."""
        found = {d.digest: d for d in (self.manifest, self.config, *self.layers)}
        return tuple(found[k] for k in sorted(found))

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(d.size for d in self.blobs)


def build_image(bench: Bench, settings: ImageSettings) -> Built:
    """Make the image in a layout in the bench's scratch folder, once for a bench.

    Raises ImageError, StoreError, OSError.
    """
    known = bench.shared.get("image")
    if isinstance(known, Built):
        return known
    layout = Layout.create(bench.scratch / "image")
    layers: list[Descriptor] = []
    diff_ids: list[str] = []
    raw_sizes: list[int] = []
    history: list[History] = []
    created = timestamp(bench.epoch)
    codec = levelled(settings.compression, settings.level)
    for group in bench.assembly.groups(settings.by, settings.budget):
        aside = bench.scratch / "layer"
        blob = bench.stream(aside, codec, group, single_stream=settings.single_stream)
        bench.moved(aside, layout.path(blob.digest))
        media_type = LAYER + CODECS[settings.compression]
        layers.append(
            Descriptor(media_type=media_type, digest=blob.digest, size=blob.size, annotations=dict(blob.annotations))
        )
        diff_ids.append(blob.diff_id)
        raw_sizes.append(blob.raw)
        history.append(layer_history(bench.facts.name, group, created))
    labels = image_labels(bench, settings, created)
    history += [History(created, text, "", "", True) for text in _config_history(settings)]
    platform = platform_of(bench.facts.architecture)
    annotations = {k: v for k, v in labels.items() if k.startswith(TITLE)}
    parent = settings.parent
    if parent is None:
        config_data = encode(_config(settings, platform, created, labels, diff_ids, history))
    else:
        copy_layers(parent, layout)
        config_data = encode(config_on(parent, created, _started(settings, parent, labels), diff_ids, history))
        annotations = {**parent.annotations, **annotations, **parent.base}
        layers, diff_ids = [*parent.layers, *layers], [*parent.diff_ids, *diff_ids]
    config = layout.put(config_data, CONFIG)
    manifest = layout.put(
        encode(ManifestWritten(config=config, layers=tuple(layers), annotations=annotations or UNSET)), MANIFEST
    )
    manifest = Descriptor(media_type=MANIFEST, digest=manifest.digest, size=manifest.size, platform=platform)
    built = Built(
        layout=layout,
        manifest=manifest,
        config=config,
        layers=tuple(layers),
        diff_ids=tuple(diff_ids),
        raw_sizes=tuple(raw_sizes),
        config_data=config_data,
    )
    bench.shared["image"] = built
    return built


def _config(
    settings: ImageSettings,
    platform: Platform,
    created: str,
    labels: dict[str, str],
    diff_ids: list[str],
    history: list[History],
) -> Config:
    return Config(
        created=created,
        architecture=platform.architecture,
        variant=platform.variant,
        os=platform.os,
        config=Execution(
            user=settings.user,
            env=_environment(settings.env),
            entrypoint=settings.entrypoint or None,
            cmd=settings.cmd or None,
            working_dir=settings.workdir,
            labels=labels or None,
        ),
        rootfs=RootFS("layers", tuple(diff_ids)),
        history=tuple(history),
    )


def _started(settings: ImageSettings, parent: Parent, labels: dict[str, str]) -> dict[str, Any]:
    return execution(
        parent,
        env=settings.env,
        cmd=settings.cmd,
        entrypoint=settings.entrypoint,
        user=settings.user,
        workdir=settings.workdir,
        labels=labels,
    )


def platform_of(architecture: str) -> Platform:
    """Return a Debian architecture as images name it; raises ImageError where they have no name for it."""
    if architecture not in PLATFORMS:
        raise ImageError(f"images have no name for the architecture `{architecture}`")
    name, variant = PLATFORMS[architecture]
    return Platform(architecture=name, variant=variant)


def image_labels(bench: Bench, settings: ImageSettings, created: str) -> dict[str, str]:
    """Return the image's labels: what is known to be true of it, then what the recipe says, which wins."""
    labels = {TITLE + "title": bench.facts.name, TITLE + "created": created}
    try:
        text = bench.assembly.read("etc/os-release").decode("utf-8", "replace")
    except RootfsError:
        text = ""
    for line in text.splitlines():
        if line.startswith("VERSION_ID="):
            labels[TITLE + "version"] = line.partition("=")[2].strip().strip("\"'")
    return {**labels, **dict(settings.labels)}


def _environment(env: Mapping[str, str]) -> tuple[str, ...]:
    own = () if "PATH" in env else (PATH,)
    return (*own, *(f"{k}={env[k]}" for k in env))


def layer_history(name: str, group: Group, created: str) -> History:
    """Return how a layer of what a build calls `name` came to be."""
    return History(created, f"{BUILT} {name}: {group.comment}", "", cut_names(group.packages))


def cut_names(packages: Sequence[str]) -> str:
    """Return names in a line that is not too long."""
    names = ", ".join(packages)
    return names if len(names) <= 2000 else names[:2000].rpartition(",")[0] + ", …"


def _config_history(settings: ImageSettings) -> list[str]:
    """Return the changes of the config as `docker history` writes them."""
    lines = [f"ENV {name}={value}" for name, value in settings.env.items()]
    if settings.workdir:
        lines.append(f"WORKDIR {settings.workdir}")
    if settings.user:
        lines.append(f"USER {settings.user}")
    if settings.entrypoint:
        lines.append("ENTRYPOINT " + json.dumps(list(settings.entrypoint), ensure_ascii=False))
    if settings.cmd:
        lines.append("CMD " + json.dumps(list(settings.cmd), ensure_ascii=False))
    return lines


def reference_of(settings: ImageSettings, name: str) -> str:
    """Return what the image is called in a layout of its own: its first tag, or the recipe's name."""
    return settings.tags[0] if settings.tags else f"{name}:latest"


def link_blobs(built: Built, layout: Layout) -> None:
    """Give another new layout on the same file system the image's blobs; raises OSError."""
    for descriptor in built.blobs:
        os.link(built.layout.path(descriptor.digest), layout.path(descriptor.digest))
