"""From a lock to artifacts, where they must be made: a root, then its outputs, then the records of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from mkroot import additions, assembling, booting, finished, parents, records, rooting, sharing, unchanged
from mkroot.artifact import provenance
from mkroot.artifact.manifest import Facts, PackageFacts
from mkroot.artifact.outputs import Maker
from mkroot.digest import sha256
from mkroot.errors import RootfsError
from mkroot.limits import check_limits
from mkroot.oci.build import ImageSettings
from mkroot.oci.model import Descriptor
from mkroot.oci.outputs import write_build
from mkroot.oci.store import ImageStore
from mkroot.origins import Origin
from mkroot.progress import Progress, Step
from mkroot.recipe.model import Recipe
from mkroot.recipe.normal import digest as recipe_digest
from mkroot.recipe.standing import reference_of
from mkroot.resolve.lock import Lock, LockedRoot
from mkroot.rootfs.apt_sources import has_apt
from mkroot.rootfs.assembly import Assembly
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.stage import Root
from mkroot.rootfs.top import scratch
from mkroot.sourcedate import source_date
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store

if TYPE_CHECKING:
    from mkroot.build import Built, Options, Sources


def emit(
    store: Store,
    identity: Identity,
    recipe: Recipe,
    lock: Lock,
    architecture: str,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
    siblings: list[Descriptor],
    *,
    place: Origin,
    inside: additions.Inside,
    key: str,
) -> Built:
    """Make a recipe's outputs for one architecture; raises MkrootError.

    place: where the packages are. inside: what comes beside them. key: of all that decides the outputs.
    """
    from mkroot.build import Artifact, Built

    locked = lock.root(architecture)
    check_limits(recipe, locked)
    layers = LayerStore(store, progress.spans)
    steps, arrived = len(progress.steps), len(progress.arrived)
    size = sum(p.installed_size for p in (*locked.packages, *locked.beside)) * 1024
    image = None
    if locked.parent is not msgspec.UNSET:
        image = parents.pinned(store, recipe, architecture, locked.parent)
        size += parents.EXPANSION * sum(layer.size for layer in image.manifest.layers)
    with ExitStack() as stack:
        trees = stack.enter_context(scratch(store, identity, size))
        rooted = assembling.root_of(
            layers, identity, trees, recipe, locked, image, place, architecture, inside, options, environ, progress
        )
        makers: dict[str, Maker] = {}
        if recipe.boot is None:
            stack.close()
        else:
            makers = booting.makers(layers, identity, trees, recipe, architecture, rooted.configured, rooted.beside)
        sources = {p.name: p.source for p in locked.packages}
        by_source = recipe.image.layers.by == "source"
        with progress.timed("assemble", "the whole tree"):
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
    digests += [made.image.manifest.digest] if made.image is not None else []  # of tags without an output `oci`
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
        finished.keep(
            store,
            key,
            result,
            made.folder,
            parts={name: blob.parts for name, blob in made.streams.items()},
            image=made.image.manifest if made.image else None,
            blobs=made.image.blobs if made.image else (),
            tags=made.tags,
            roots=[digest.removeprefix("sha256:") for digest in digests],
        )
        if store.beyond is not None:
            sharing.share_made(store, key, result, made, (*rooted.root.tree.layers, *rooted.beside), digests)
        unchanged.remember(store, made.folder, key, msgspec.msgpack.encode(result))
    return msgspec.structs.replace(
        result, sources=_sources(locked, progress.steps[steps:], progress.arrived[arrived:], layers)
    )


def _sources(locked: LockedRoot, steps: Sequence[Step], arrived: Sequence[int], layers: LayerStore) -> Sources:
    """Return what came from where. steps: that the build took. arrived: bytes of each package that it fetched."""
    from mkroot.build import Sources

    stages = [step for step in steps if step.name.startswith((rooting.CONFIGURING, parents.INSTALLING))]
    return Sources(
        fetched=len(arrived),
        bytes=sum(arrived),
        stored=max(0, len(locked.packages) + len(locked.beside) - len(arrived)),
        stages=len(stages),
        stages_stored=sum(step.cached for step in stages),
        frames=len(layers.wanted),
        frames_stored=len(layers.wanted - layers.made),
    )


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


def _image(store: Store, recipe: Recipe, options: Options, rooted: assembling.Rooted) -> ImageSettings:
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
        level=image.level,
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
    inside: additions.Inside,
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
            parent=reference_of(recipe),
            files=additions.digests(recipe, inside),
        ),
    )
