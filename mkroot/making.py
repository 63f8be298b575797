"""A recipe's outputs for one architecture: those that are there already, else made from its lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import mkroot
from mkroot import additions, unchanged
from mkroot.errors import MkrootError
from mkroot.origins import origin
from mkroot.recipe.normal import normalised

if TYPE_CHECKING:
    from mkroot.build import Built, Options
    from mkroot.oci.model import Descriptor
    from mkroot.progress import Progress
    from mkroot.recipe.model import Recipe
    from mkroot.resolve.lock import Lock
    from mkroot.rootfs.identity import Identity
    from mkroot.store.store import Store


def make(
    store: Store,
    identity: Identity,
    recipe: Recipe,
    lock: Lock,
    architecture: str,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    siblings: list[Descriptor],
) -> Built:
    """Make a recipe's outputs for one architecture from its lock; raises MkrootError."""
    from mkroot.build import Built, Sources

    began = len(progress.steps)
    locked = lock.root(architecture)
    place = origin(recipe, architecture, options.mirror, environ)
    if options.written is not None:
        place = place.written_as(*options.written)
    inside = additions.inside_of(recipe, locked, place)
    target = options.out / str(recipe.name) / str(architecture)
    key = _key(recipe, lock, architecture, inside, options, environ)
    known = unchanged.recall(store, target, key)
    if known is not None and _tagged(store, built := msgspec.msgpack.decode(known, type=Built), recipe, options):
        return msgspec.structs.replace(built, unchanged=True, steps=tuple(progress.steps[began:]))
    asked = options.explain_cache or options.scripts != "auto"
    if not asked and (copied := _copied(store, key, recipe, architecture, options, progress, siblings)):
        unchanged.remember(store, target, key, msgspec.msgpack.encode(copied))
        stored = Sources(stored=copied.packages)
        return msgspec.structs.replace(copied, steps=tuple(progress.steps[began:]), sources=stored)
    from mkroot.emitting import emit

    made = emit(
        store, identity, recipe, lock, architecture, options, environ, progress, siblings,
        place=place, inside=inside, key=key,
    )  # fmt: skip
    return msgspec.structs.replace(made, steps=tuple(progress.steps[began:]))


def _copied(
    store: Store,
    key: str,
    recipe: Recipe,
    architecture: str,
    options: Options,
    progress: Progress,
    siblings: list[Descriptor],
) -> Built | None:
    """Return the build of these inputs, copied out of the store; None where that has not all of it."""
    from mkroot import finished
    from mkroot.build import Built

    record = finished.recall(store, key)
    if record is None:
        return None
    name, arch = str(recipe.name), str(architecture)
    with progress.step("copy") as step:
        if not finished.restore(store, record, options.out, name, arch, siblings):
            step.result = "the store has not all of it any more"
            return None
        step.cached = True
        step.result = "a build that the store knows"
    built = msgspec.msgpack.decode(record.result, type=Built)
    target = options.out / name / arch
    artifacts = tuple(msgspec.structs.replace(a, path=str(target / a.path)) for a in built.artifacts)
    return msgspec.structs.replace(built, artifacts=artifacts)


def _key(
    recipe: Recipe,
    lock: Lock,
    architecture: str,
    inside: additions.Inside,
    options: Options,
    environ: Mapping[str, str],
) -> str:
    """Return the digest of all that decides a build's outputs."""
    local = [Path(w.file.path).read_bytes() for w in recipe.packages.include if w.file is not None]
    return unchanged.key_of(
        (
            mkroot.__version__.encode(),
            normalised(recipe),
            mkroot.BUILD_TYPE.encode(),
            msgspec.json.encode(dict(recipe.vars), order="sorted"),
            lock.encode(),
            architecture.encode(),
            msgspec.msgpack.encode(inside, enc_hook=str),
            " ".join(options.tags).encode(),
            environ.get("SOURCE_DATE_EPOCH", "").encode(),
            *local,
        )
    )


def _tagged(store: Store, built: Built, recipe: Recipe, options: Options) -> bool:
    """Tell whether the image store still has a build's image under its tags."""
    tags = (*recipe.image.tags, *options.tags)
    image = next((a for a in built.artifacts if a.kind == "oci"), None)
    if image is None:
        return not tags
    from mkroot.oci.store import ImageStore

    images = ImageStore(store)
    try:
        return all(images.find(tag).digest == image.digest for tag in tags or (f"{built.name}:latest",))
    except MkrootError:
        return False
