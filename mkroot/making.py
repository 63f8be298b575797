"""From a lock to artifacts, for one architecture: packages, root, outputs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import mkroot
from mkroot import additions, booting, locking, packages, parents, records, rooting, unchanged
from mkroot.archive.http import Http
from mkroot.archive.inrelease import Policy
from mkroot.artifact import provenance
from mkroot.artifact.manifest import Facts, PackageFacts
from mkroot.artifact.outputs import Maker
from mkroot.digest import sha256
from mkroot.errors import LockError, MkrootError, RootfsError, SandboxError
from mkroot.oci.build import ImageSettings
from mkroot.oci.model import Descriptor, seconds
from mkroot.oci.outputs import write_build
from mkroot.oci.store import Image, ImageStore
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe, Trim
from mkroot.recipe.normal import digest as recipe_digest
from mkroot.recipe.normal import normalised
from mkroot.resolve.lock import Lock, LockedPackage, LockedRoot
from mkroot.rootfs.apt_sources import has_apt
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.stage import Root
from mkroot.rootfs.top import chown, scratch
from mkroot.sourcedate import source_date
from mkroot.sources import Origin, dated, local_packages, origin
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees
from mkroot.store.unpack import Expected

if TYPE_CHECKING:
    from mkroot.build import Built, Options


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
    from mkroot.build import Artifact, Built

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
    locking.check_limits(recipe, locked)
    layers = LayerStore(store)
    size = sum(p.installed_size for p in (*locked.packages, *locked.beside)) * 1024
    image = None
    if locked.parent is not msgspec.UNSET:
        image = parents.pinned(store, recipe, architecture, locked.parent)
        size += parents.EXPANSION * sum(layer.size for layer in image.manifest.layers)
    with ExitStack() as stack:
        trees = stack.enter_context(scratch(store, identity, size))
        rooted = _root(
            layers, identity, trees, recipe, locked, image, place, architecture, inside, options, environ, progress
        )
        makers: dict[str, Maker] = {}
        if recipe.boot is None:
            stack.close()
        else:
            makers = booting.makers(layers, identity, trees, recipe, architecture, rooted.configured, rooted.beside)
        sources = {p.name: p.source for p in locked.packages}
        by_source = recipe.image.layers.by == "source"
        assembly = rooting.assembled(layers, rooted.root, rooted.epoch, sources, rooted.below, by_source)
        _check_size(recipe, assembly, locked)
        made = write_build(
            assembly,
            _facts(recipe, lock, locked, architecture, place, rooted.root),
            _image(layers.store, recipe, options, rooted),
            options.out,
            recipe.outputs,
            provenance=_provenance(recipe, lock, architecture, inside, options, environ),
            images=ImageStore(store),
            siblings=siblings,
            makers=makers,
            progress=progress,
        )
    digests = [made.manifest.tree, *(m.digest for m in made.artifacts if m.kind == "oci")]
    records.keep(
        store, digests, rooted.root, scripts=recipe.configure == "scripts", lock=lock, provenance=made.provenance
    )
    result = Built(
        name=str(recipe.name),
        architecture=str(architecture),
        artifacts=tuple(Artifact(m.kind, str(made.folder / m.name), m.size, m.digest) for m in made.artifacts),
        packages=len(locked.packages),
        steps=(),
        notes=rooted.notes,
    )
    if not any(hook.network for hook in recipe.hooks):
        unchanged.remember(store, made.folder, key, msgspec.msgpack.encode(result))
    return msgspec.structs.replace(result, steps=tuple(progress.steps[began:]))


def _key(
    recipe: Recipe, lock: Lock, architecture: str, inside: rooting.Inside, options: Options, environ: Mapping[str, str]
) -> str:
    """Return the digest of all that decides a build's outputs."""
    local = [Path(w.file.path).read_bytes() for w in recipe.packages.include if w.file is not None]
    return unchanged.key_of(
        (
            mkroot.__version__.encode(),
            normalised(recipe),
            provenance.BUILD_TYPE.encode(),
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
    images = ImageStore(store)
    try:
        return all(images.find(tag).digest == image.digest for tag in tags or (f"{built.name}:latest",))
    except MkrootError:
        return False


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
        found.append(packages.Item(expected=expected, address=address, size=p.size, first=p.stage == "essential"))
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


def _root(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    recipe: Recipe,
    locked: LockedRoot,
    image: Image | None,
    place: Origin,
    architecture: str,
    inside: rooting.Inside,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
) -> Rooted:
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
    below = root if parents.stands_on(recipe) else None
    if below is not None:
        root, newest = parents.install(
            layers, identity, trees, root, items, date, recipe, environ, options.offline, progress
        )
        items = []
    stages = [p.stage for p in locked.packages] if below is None else []
    missing = packages.absent(layers.store, items, None)
    if not missing and scripts:
        todo = rooting.stages(list(zip(stages, packages.load(layers.store, items))), date, recipe)
        if not rooting.known(layers, root, todo):
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
    appliance = None
    if image is not None:
        epoch = max(epoch, seconds(image.config.created)) if date is None else date
        if below is None:
            appliance = booting.appliance(layers, identity, trees, root, beside, image)
    root, notes = rooting.finished(layers, identity, trees, root, recipe, inside, epoch, progress, appliance)
    return Rooted(
        root=root, configured=configured, epoch=epoch, notes=notes, beside=tuple(beside), image=image, below=below
    )


def _codecs(recipe: Recipe) -> tuple[str, ...]:
    """Return the codecs beside zstd in which whole packages will be wanted: better made while scripts run.

    A root that is trimmed keeps hardly a package whole.
    """
    image = any(k in recipe.outputs for k in ("oci", "oci-archive", "docker-archive")) or bool(recipe.image.tags)
    gzip = "tar.gz" in recipe.outputs or (image and recipe.image.compression == "gzip")
    whole = recipe.trim == Trim() and recipe.configure != "static" and not recipe.image.layers.single_stream
    return ("gzip",) if gzip and whole else ()


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


def _check_size(recipe: Recipe, assembly: Assembly, locked: LockedRoot) -> None:
    """Raise RootfsError where the tree is bigger than `limits.rootfs`, naming the biggest packages and why."""
    limit = recipe.limits.rootfs
    if limit is None:
        return
    sizes: dict[str, int] = {}
    for node in assembly.tree.nodes.values():
        name = assembly.tree.layers[node.layer].name
        sizes[name] = sizes.get(name, 0) + node.entry.size
    total = sum(sizes.values())
    if total > limit:
        why = {p.name: p.why for p in locked.packages}
        blame = sorted(sizes, key=lambda n: (-sizes[n], n))[:10]
        lines = [f"  {sizes[n] / 2**20:7.1f} MiB  {n} ({why.get(n, 'written by the build')})" for n in blame]
        raise RootfsError(
            f"the root takes {total / 2**20:.1f} MiB, `limits.rootfs` allows {limit / 2**20:.1f}; the most is in\n"
            + "\n".join(lines),
            hint="`mkroot size RECIPE` tells where the bytes come from, `mkroot why RECIPE PACKAGE` what brought one",
        )


def _image(store: Store, recipe: Recipe, options: Options, rooted: Rooted) -> ImageSettings:
    image = recipe.image
    parent = None
    if rooted.image is not None and rooted.below is not None:
        from mkroot.oci.inherit import parent_of

        parent = parent_of(ImageStore(store), rooted.image, str(image.parent))
    return ImageSettings(
        by=image.layers.by,
        budget=image.layers.budget,
        single_stream=image.layers.single_stream,
        compression=image.compression,
        cmd=tuple(map(str, image.cmd)),
        entrypoint=tuple(map(str, image.entrypoint)),
        env={str(k): str(v) for k, v in image.env.items()},
        user=str(image.user or ""),
        workdir=str(image.workdir or ""),
        labels={str(k): str(v) for k, v in image.labels.items()},
        tags=(*map(str, image.tags), *options.tags),
        parent=parent,
    )


def _facts(recipe: Recipe, lock: Lock, locked: LockedRoot, architecture: str, place: Origin, root: Root) -> Facts:
    uri, _ = additions.apt_mirror(recipe, place)
    return Facts(
        name=str(recipe.name),
        architecture=str(architecture),
        distro=recipe.distro,
        suite=str(recipe.suite),
        packages=tuple(
            PackageFacts(
                name=p.name,
                version=p.version,
                architecture=p.architecture,
                source=p.source,
                source_version=p.source_version,
                sha256=p.sha256,
                size=p.size,
                installed_size=p.installed_size * 1024,
            )
            for p in locked.packages
        ),
        lock=sha256(lock.encode()),
        recipe=recipe_digest(recipe),
        mirror=uri if has_apt(root.tree) else "",
    )


def _provenance(
    recipe: Recipe,
    lock: Lock,
    architecture: str,
    inside: rooting.Inside,
    options: Options,
    environ: Mapping[str, str],
) -> provenance.Provenance:
    return provenance.Provenance(
        asked=provenance.Asked(
            name=str(recipe.name),
            recipe={"sha256": recipe_digest(recipe)},
            variables=provenance.public({str(k): str(v) for k, v in recipe.vars.items()}),
            architecture=str(architecture),
            architectures=tuple(map(str, recipe.arch)),
            outputs=tuple(recipe.outputs),
            tags=options.tags,
            source_date_epoch=source_date(environ),
        ),
        materials=provenance.materials(
            lock,
            architecture,
            distro=recipe.distro,
            suite=str(recipe.suite),
            parent=parents.reference_of(recipe),
            files=additions.digests(recipe, inside),
        ),
    )
