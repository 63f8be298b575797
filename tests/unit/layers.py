"""Packages made from a few words, unpacked into a store of the test's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected, layer_key, unpack
from mkroot.store.writer import Chown
from tests.testarchive import Content


def control(name: str, version: str = "1", architecture: str = "all", **fields: str) -> str:
    more = "".join(f"{k.replace('_', '-')}: {v}\n" for k, v in fields.items())
    return f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{more}Description: test\n"


def deb(folder: Path, name: str, content: Content, **fields: str) -> tuple[Path, Expected]:
    data = content.deb(control(name, **fields))
    path = folder / f"{name}.deb"
    path.write_bytes(data)
    return path, Expected(hashlib.sha256(data).hexdigest(), name, "1", "all", content.installed_size())


def layer(
    store: Store, folder: Path, name: str, trees: Trees | None = None, fields: Any = None, **content: Any
) -> Layer:
    path, expected = deb(folder, name, Content(**content), **(fields or {}))
    unpack(store, path, expected, trees, Chown())[2]()
    return LayerStore(store).load(layer_key(expected.sha256))


def shown(layer: Layer) -> list[str]:
    """A layer's own members, without dpkg's database, a line each."""
    return [
        line(e) for e in layer.entries if not (e.path + "/").startswith(("var/lib/dpkg/", "var/")) or e.path == "var"
    ]


def line(entry: Any) -> str:
    text = f"{entry.kind} {entry.mode:o} {entry.uid}:{entry.gid} /{entry.path}"
    return f"{text} -> {entry.link}" if entry.link else text


replace = msgspec.structs.replace
