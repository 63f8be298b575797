"""From a lock to a finished root: the image that it stands on, packages fetched, stages configured, config, trim."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from mkroot import booting, packages, parents, rooting
from mkroot.additions import Inside
from mkroot.archive.http import Http
from mkroot.archive.inrelease import Policy
from mkroot.errors import LockError, SandboxError
from mkroot.oci.model import seconds
from mkroot.oci.store import Image, ImageStore
from mkroot.origins import Origin
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe, Trim
from mkroot.recipe.standing import stands_on
from mkroot.resolve.lock import LockedPackage, LockedRoot
from mkroot.rootfs import foreign
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.stage import Root
from mkroot.rootfs.top import chown
from mkroot.sourcedate import source_date
from mkroot.sources import dated, local_packages
from mkroot.store.frame import levelled
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected

if TYPE_CHECKING:
    from mkroot.build import Options


def wanted_items(store: Store, recipe: Recipe, wanted: tuple[LockedPackage, ...], place: Origin) -> list[packages.Item]:
    """Return what must be in the store; raises LockError where a local package is not the locked one any more."""
    local = {p.sha256 for p in local_packages(store, recipe)} if any(not p.origin for p in wanted) else set()
    found = []
    for p in wanted:
        if not p.origin and p.sha256 not in local:
            raise LockError(
                f"the local package {p.path} is not the one that was locked",
                where=f"{p.name} {p.version}",
                hint="run `mkroot lock RECIPE` to lock it as it is now",
            )
        expected = Expected(p.sha256, p.name, p.version, p.architecture, p.installed_size)
        address = place.locate(p.origin, p.path) if p.origin else None
        first, soon = p.stage == "essential", p.stage == "variant"
        found.append(packages.Item(expected=expected, address=address, size=p.size, first=first, soon=soon))
    return found


class Rooted(msgspec.Struct, frozen=True, kw_only=True):
    """A finished root, the date of its newest package (seconds), what the user should know, and packages beside it.

    configured: the root before the recipe's config and trim. image: what it is made of or stands on; below: the root of
    a parent that it stands on.
    """

    root: Root
    configured: Root
    epoch: int
    notes: tuple[str, ...]
    beside: tuple[Layer, ...] = ()
    image: Image | None = None
    below: Root | None = None


def root_of(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    recipe: Recipe,
    locked: LockedRoot,
    image: Image | None,
    place: Origin,
    architecture: str,
    inside: Inside,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    unfinished: bool = False,
) -> Rooted:
    """Return the root that a lock makes; raises MkrootError.

    image: what it is made of or stands on. place: where the packages are. inside: what comes beside them. unfinished:
    leave it as its stages have configured it, for the sake of the stages in the store.
    """
    date = source_date(environ)
    place = at_snapshot(layers.store, recipe, place, options, environ, progress)
    items = wanted_items(layers.store, recipe, locked.packages, place)
    extra = wanted_items(layers.store, recipe, locked.beside, place)
    scripts = recipe.configure == "scripts"
    if scripts and not identity.can_mount:
        raise SandboxError(
            f"maintainer scripts cannot run here: {identity.reason}",
            hint=f"{identity.hint}; `configure: static` and `configure: none` work without",
        )
    newest = 0
    root = rooting.empty_root(layers, architecture)
    if image is not None:
        from mkroot.oci.layers import image_root

        with progress.step("image", len(image.manifest.layers), "layers") as step:
            root = msgspec.structs.replace(
                image_root(layers, ImageStore(layers.store), image), architecture=architecture
            )
            step.result = f"{len(image.manifest.layers)} layers"
    below = root if stands_on(recipe) else None
    if below is not None:
        root, newest = parents.install(
            layers, identity, trees, root, items, date, recipe, environ, options.offline, progress
        )
        items = []
    stages = [p.stage for p in locked.packages] if below is None else []
    missing = packages.absent(layers.store, items, None)
    if scripts and (missing or not _known(layers, root, items, stages, date, recipe)):
        foreign.check(architecture)  # before anything is fetched
        missing = packages.absent(layers.store, items, trees)
    wanted = trees if scripts else None
    missing += packages.absent(layers.store, extra, None)
    with packages.supplied(
        layers, missing, wanted, _codecs(recipe), chown(identity), environ, options.offline, progress
    ) as supply:
        supply.first([i for i in items if i.first] if scripts else items)
        if scripts and below is None:
            for name in ("essential", "variant", "include"):
                upto = [i for i, s in zip(items, stages) if s in _UPTO[name]]
                supply.wait(upto)
                members = list(zip([s for s in stages if s in _UPTO[name]], supply.layers(upto)))
                todo = [s for s in rooting.stages(members, date, recipe) if s.name == name]
                told = progress.warn if options.explain_cache else None
                root = rooting.configured(
                    layers,
                    identity,
                    trees,
                    root,
                    todo,
                    progress,
                    f"{recipe.name} {architecture}",
                    told,
                    options.scripts,
                )
            supply.finish()
        elif image is not None:
            supply.finish()
        else:
            supply.finish()
            root = rooting.unscripted(layers, root, supply.layers(items), recipe.configure, date, progress)
        beside = supply.layers(extra)
    configured = root
    epoch = date if date is not None else max([newest, *(layer.date for layer in root.packages)])
    if unfinished:
        return Rooted(root=root, configured=root, epoch=epoch, notes=())
    appliance = None
    if image is not None:
        epoch = max(epoch, seconds(image.config.created)) if date is None else date
        if below is None:
            appliance = booting.appliance(layers, identity, trees, root, beside, image)
    root, notes = rooting.finished(layers, identity, trees, root, recipe, inside, epoch, progress, appliance)
    return Rooted(
        root=root, configured=configured, epoch=epoch, notes=notes, beside=tuple(beside), image=image, below=below
    )


def _known(
    layers: LayerStore,
    root: Root,
    items: Sequence[packages.Item],
    stages: Sequence[str],
    date: int | None,
    recipe: Recipe,
) -> bool:
    """Tell whether the store has every stage of packages that it has; stages: each package's."""
    return rooting.known(
        layers, root, rooting.stages(list(zip(stages, packages.load(layers, items), strict=True)), date, recipe)
    )


def upto(locked: LockedRoot, stage: str) -> LockedRoot:
    """Return a lock's packages up to and with a stage, without those beside the root."""
    return LockedRoot(packages=tuple(p for p in locked.packages if p.stage in _UPTO[stage]), parent=locked.parent)


def provide(
    store: Store,
    identity: Identity,
    recipe: Recipe,
    wanted: tuple[LockedPackage, ...],
    place: Origin,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
) -> None:
    """Have some of a recipe's packages in the store, fetched and unpacked; raises MkrootError."""
    place = at_snapshot(store, recipe, place, options, environ, progress)
    missing = packages.absent(store, wanted_items(store, recipe, wanted, place), None)
    with packages.supplied(
        LayerStore(store), missing, None, _codecs(recipe), chown(identity), environ, options.offline, progress
    ) as supply:
        supply.first(missing)
        supply.finish()


def _codecs(recipe: Recipe) -> tuple[str, ...]:
    """Return the codecs beside zstd in which whole packages will be wanted: better made while scripts run.

    A root that is trimmed keeps hardly a package whole.
    """
    image = any(k in recipe.outputs for k in ("oci", "oci-archive", "docker-archive")) or bool(recipe.image.tags)
    codecs = ["gzip"] if "tar.gz" in recipe.outputs else []
    codecs += [levelled(recipe.image.compression, recipe.image.level)] if image else []
    whole = recipe.trim == Trim() and recipe.configure != "static" and not recipe.image.layers.single_stream
    return tuple(c for c in dict.fromkeys(codecs) if c not in ("none", "zstd")) if whole else ()


def at_snapshot(
    store: Store, recipe: Recipe, place: Origin, options: Options, environ: Mapping[str, str], progress: Progress
) -> Origin:
    """Return where a dated recipe's packages are fetched from; its live mirror still names apt's sources.

    Offline nothing is fetched, and nobody asks the live archive where its dated copies are.
    """
    if not recipe.snapshot or options.offline:
        return place
    http = Http(environ, tell=progress.warn)
    try:
        policy = Policy(now=int(time.time()), offline=options.offline)
        return dated(store, recipe, place, http=http, policy=policy, environ=environ)
    finally:
        http.close()


_UPTO = {
    "essential": ("essential",),
    "variant": ("essential", "variant"),
    "include": ("essential", "variant", "include"),
}
