"""What an image takes from the one that it stands on: layers as they are, history, and how it is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mkroot.artifact.files import copy_file
from mkroot.digest import sha256_file
from mkroot.errors import ImageError
from mkroot.oci.layout import Layout
from mkroot.oci.model import Descriptor, History, oci_layer

if TYPE_CHECKING:
    from mkroot.oci.store import Image, ImageStore

BASE_DIGEST = "org.opencontainers.image.base.digest"  # image-spec, annotations.md
BASE_NAME = "org.opencontainers.image.base.name"
OTHERS = ("container", "container_config", "docker_version", "id", "parent")  # Docker's, of how the parent was made


class Parent(Struct, frozen=True, kw_only=True):
    """The image that another one stands on.

    digest: of its manifest. reference: what it was called. layers: from the bottom up. document: its config, as JSON
    has it, with what mkroot knows nothing of. layout: where its blobs are.
    """

    digest: str
    reference: str
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    document: dict[str, Any]
    annotations: dict[str, str]
    layout: Layout

    @property
    def history(self) -> list[dict[str, Any]]:
        """Its history, with a line for each layer where it tells none."""
        found: list[dict[str, Any]] = self.document.get("history") or [{} for _ in self.layers]
        return found

    @property
    def base(self) -> dict[str, str]:
        """The annotations by which an image tells what it stands on."""
        return {BASE_DIGEST: self.digest, BASE_NAME: self.reference}


def parent_of(images: ImageStore, image: Image, reference: str) -> Parent:
    """Return an image of the store as a parent; raises ImageError where its config is damaged."""
    layout = images.layout()
    return Parent(
        digest=image.digest,
        reference=reference,
        layers=tuple(map(oci_layer, image.manifest.layers)),
        diff_ids=image.config.rootfs.diff_ids,
        document=json.loads(layout.read(image.manifest.config)),
        annotations=dict(image.manifest.annotations),
        layout=layout,
    )


def copy_layers(parent: Parent, layout: Layout) -> None:
    """Give another layout the parent's layers, each checked on the way; raises ImageError, OSError."""
    for layer in parent.layers:
        path = layout.path(layer.digest)
        if path.exists():
            continue
        copy_file(_there(parent, layer), path)
        if "sha256:" + sha256_file(path) != layer.digest:
            raise damaged(parent.layout.path(layer.digest))


def _there(parent: Parent, layer: Descriptor) -> Path:
    path = parent.layout.path(layer.digest)
    if not path.exists():
        raise ImageError(
            f"the image store lacks a layer of `{parent.reference}`", where=str(path), hint="pull or build it again"
        )
    return path


def damaged(path: Path) -> ImageError:
    """Return the error for a blob that does not match its digest."""
    return ImageError(
        "a damaged blob: it does not match its digest",
        where=str(path),
        hint="run `mkroot cache verify`, or pull the image again",
    )


def own_history(former: Parent, image: Parent, count: int) -> list[dict[str, Any]]:
    """Return the history of the layers above the former parent."""
    told = former.history
    if image.history[: len(told)] == told:
        return image.history[len(told) :]
    seen = 0
    for n, line in enumerate(image.history):
        if seen == count:
            return image.history[n:]
        seen += not line.get("empty_layer")
    return []


def execution(
    parent: Parent,
    *,
    env: Mapping[str, str],
    cmd: Sequence[str],
    entrypoint: Sequence[str],
    user: str,
    workdir: str,
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Return the config's `config`: the parent's, with what is said anew (image-spec, config.md).

    As in a Dockerfile, an entrypoint without a cmd beside it takes the parent's cmd away.
    """
    found: dict[str, Any] = dict(parent.document.get("config") or {})
    lines: list[str] = list(found.get("Env") or ())
    for name, value in env.items():
        places = [n for n, line in enumerate(lines) if line.partition("=")[0] == name]
        if places:
            lines[places[0]] = f"{name}={value}"
        else:
            lines.append(f"{name}={value}")
    if entrypoint:
        found |= {"Entrypoint": list(entrypoint), "Cmd": None}
    if cmd:
        found["Cmd"] = list(cmd)
    found |= {"User": user} if user else {}
    found |= {"WorkingDir": workdir} if workdir else {}
    found |= {"Env": lines, "Labels": {**(found.get("Labels") or {}), **labels}}
    return {k: v for k, v in found.items() if v not in (None, "", [], {})}


def config_on(
    parent: Parent, created: str, started: Mapping[str, Any], diff_ids: Sequence[str], history: Sequence[History]
) -> dict[str, Any]:
    """Return the config of an image on a parent. diff_ids, history: of its own layers, above the parent's."""
    import msgspec

    kept = {k: v for k, v in parent.document.items() if k not in OTHERS}
    return kept | {
        "created": created,
        "config": dict(started),
        "rootfs": {"type": "layers", "diff_ids": [*parent.diff_ids, *diff_ids]},
        "history": [*parent.history, *(msgspec.to_builtins(h) for h in history)],
    }
