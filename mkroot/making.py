"""A recipe's outputs for one architecture: those that are there already, else made from its lock."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import mkroot
from mkroot import additions, sharing, unchanged
from mkroot.decoding import from_msgpack
from mkroot.errors import MkrootError
from mkroot.origins import Origin, origin
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
    """Make a recipe's outputs for one architecture from its lock; raises MkrootError.

    siblings: the images of the same recipe for other architectures that are made or found by now; this one is added,
    and its tags name them all.
    """
    from mkroot.build import Sources

    began, others = len(progress.steps), len(siblings)
    wish = wished(recipe, lock, architecture, options, environ)
    known = there(store, wish, recipe, options, siblings)
    if known is not None and (store.beyond is None or sharing.share_unchanged(store, wish.key, known, wish.target)):
        return msgspec.structs.replace(known, steps=tuple(progress.steps[began:]))
    del siblings[others:]
    if copies(options) and (copied := _copied(store, wish.key, recipe, architecture, options, progress, siblings)):
        unchanged.remember(store, wish.target, wish.key, msgspec.msgpack.encode(copied))
        if store.beyond is not None:
            sharing.share(store, wish.key, copied, wish.target)
        stored = Sources(stored=copied.packages)
        return msgspec.structs.replace(copied, steps=tuple(progress.steps[began:]), sources=stored)
    if copies(options) and (found := _fetched(store, wish, recipe, architecture, options, progress, siblings)):
        unchanged.remember(store, wish.target, wish.key, msgspec.msgpack.encode(found))
        stored = Sources(stored=found.packages)
        return msgspec.structs.replace(found, steps=tuple(progress.steps[began:]), sources=stored)
    from mkroot.emitting import emit

    made = emit(
        store, identity, recipe, lock, architecture, options, environ, progress, siblings,
        place=wish.place, inside=wish.inside, key=wish.key,
    )  # fmt: skip
    return msgspec.structs.replace(made, steps=tuple(progress.steps[began:]))


def copies(options: Options) -> bool:
    """Tell whether a build whose outputs are known somewhere copies them, or is asked how it makes them."""
    return not options.explain_cache and options.scripts == "auto"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A build that is wanted. place: where its packages are. target: its output folder. key: of all that decides it."""

    place: Origin
    inside: additions.Inside
    target: Path
    key: str


def wished(recipe: Recipe, lock: Lock, architecture: str, options: Options, environ: Mapping[str, str]) -> Wish:
    """Return what is to be built of a lock; raises MkrootError."""
    locked = lock.root(architecture)
    place = origin(recipe, architecture, options.mirror, environ)
    if options.written is not None:
        place = place.written_as(*options.written)
    inside = additions.inside_of(recipe, locked, place)
    target = options.out / str(recipe.name) / str(architecture)
    return Wish(
        place=place,
        inside=inside,
        target=target,
        key=_key(recipe, lock, architecture, inside, options, environ),
    )


def there(store: Store, wish: Wish, recipe: Recipe, options: Options, siblings: list[Descriptor]) -> Built | None:
    """Return what an earlier build made that stands there unchanged; None where it must be made.

    siblings: as `make` takes them.
    """
    from mkroot.build import Built

    known = unchanged.recall(store, wish.target, wish.key)
    if known is None:
        return None
    built = from_msgpack(known, Built)
    if not _tagged(store, built, recipe, options, siblings):
        return None
    return msgspec.structs.replace(built, unchanged=True)


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
    return _placed(record.result, options.out / name / arch)


def _fetched(
    store: Store,
    wish: Wish,
    recipe: Recipe,
    architecture: str,
    options: Options,
    progress: Progress,
    siblings: list[Descriptor],
) -> Built | None:
    """Return the build of these inputs, fetched from the store's second floor; None where that has not all of it."""
    if store.beyond is None:
        return None
    where = options.out, str(recipe.name), str(architecture)
    result = sharing.fetched(store, wish.key, *where, progress, siblings)
    return None if result is None else _placed(result, wish.target)


def _placed(result: bytes, target: Path) -> Built:
    """Return a build whose artifacts' paths are relative to its folder."""
    from mkroot.build import Built

    built = from_msgpack(result, Built)
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


def _tagged(store: Store, built: Built, recipe: Recipe, options: Options, siblings: list[Descriptor]) -> bool:
    """Tell whether the image store has a build's image; tags that do not name it any more are given to it again.

    siblings: as `make` takes them.
    """
    tags = (*recipe.image.tags, *options.tags)
    image = next((a for a in built.artifacts if a.kind == "oci"), None)
    if image is None:
        return not tags
    from mkroot.oci.store import ImageStore, platforms_of

    images = ImageStore(store)
    tags = tags or (f"{built.name}:latest",)
    named: list[Descriptor] = []
    for tag in tags:
        with contextlib.suppress(MkrootError):
            named += [d for d in platforms_of(images.layout(), images.find(tag)) if d.digest == image.digest]
    if len(named) == len(tags):
        siblings.append(msgspec.structs.replace(named[0], annotations={}))
        return True
    from mkroot.oci.build import platform_of
    from mkroot.oci.reference import Reference

    try:
        with images.using():
            one = msgspec.structs.replace(images.held(image.digest), platform=platform_of(built.architecture))
            for tag in tags:
                images.tag_platforms([*siblings, one], Reference.parse(tag))
    except MkrootError:
        return False
    siblings.append(one)
    return True


def others(store: Store, recipe: Recipe, architecture: str, options: Options) -> list[Descriptor]:
    """Return the images that the tags of a recipe for several architectures name now for the others of these."""
    if len(recipe.arch) < 2:
        return []
    from mkroot.oci.build import platform_of
    from mkroot.oci.store import ImageStore, platforms_of

    images = ImageStore(store)
    found = []
    with contextlib.suppress(MkrootError):
        wanted = [platform_of(a) for a in recipe.arch if a != architecture]
        tag = (*recipe.image.tags, *options.tags, f"{recipe.name}:latest")[0]
        found = [d for d in platforms_of(images.layout(), images.find(tag)) if d.platform in wanted]
    return [msgspec.structs.replace(d, annotations={}) for d in found]
