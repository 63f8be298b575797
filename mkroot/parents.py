"""The image that a recipe's root is, or stands on: found by its reference, pinned in the lock by its digest.

What dpkg's database of the image says is installed is what the resolver takes as there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mkroot import packages, rooting
from mkroot.debian.deb822 import stanzas
from mkroot.debian.package import Package
from mkroot.errors import ImageError, LockError
from mkroot.oci.build import platform_of
from mkroot.oci.model import INDEXES, Descriptor
from mkroot.oci.store import Image, ImageStore, platforms_of
from mkroot.progress import Following, Progress
from mkroot.recipe.model import Recipe
from mkroot.recipe.standing import installs, key_of, reference_of
from mkroot.resolve.request import Request
from mkroot.rootfs import onto
from mkroot.rootfs.dpkg import STATUS
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.stage import Root
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.trees import Trees

INSTALLED = ("installed", "triggers-pending", "triggers-awaited")  # states in which a package serves (dpkg(1))
GONE = ("not-installed", "config-files")
INSTALLING = "install"  # what the step is called
EXPANSION = 4  # how many times its compressed size an image may take unpacked, where memory is reckoned


def parent(store: Store, recipe: Recipe, architecture: str) -> Image | None:
    """Return the image that the recipe names, as it is now; raises ImageError where the store has none."""
    reference = reference_of(recipe)
    if not reference:
        return None
    images = ImageStore(store)
    try:
        found = images.find(reference, platform_of(architecture).architecture)
    except ImageError as e:
        hint = f"{e.hint or '`mkroot images` lists those that there are'}; pull, load or build it first"
        raise ImageError(e.what, where=key_of(recipe), hint=hint) from None
    return _fitting(images.load(found), recipe, architecture)


def pinned(store: Store, recipe: Recipe, architecture: str, digest: str) -> Image:
    """Return the image of a digest that a lock names; raises LockError where the store has it not any more."""
    images = ImageStore(store)
    layout = images.layout()
    named: list[Descriptor] = []
    for descriptor in layout.index().manifests:
        if descriptor.digest == digest or descriptor.media_type in INDEXES:
            named += [d for d in platforms_of(layout, descriptor) if d.digest == digest]
    if not named:
        raise LockError(
            f"the image store has no image {digest} any more, which the lock names",
            where=key_of(recipe),
            hint="pull or build it again, or run `mkroot lock RECIPE` to take the image as it is now",
        )
    return _fitting(images.load(named[0]), recipe, architecture)


def _fitting(image: Image, recipe: Recipe, architecture: str) -> Image:
    if image.config.architecture != platform_of(architecture).architecture:
        raise ImageError(
            f"the image `{reference_of(recipe)}` is for {image.config.architecture}, not for {architecture}",
            where=key_of(recipe),
        )
    return image


def over(request: Request, recipe: Recipe, tree: Tree) -> Request:
    """Return the request as it is made over a parent's tree: its packages are there, and may be upgraded.

    Raises ImageError where the parent is of another distribution, or its dpkg database is missing or unfinished.
    """
    if not installs(recipe):
        return request
    told = _os_release(tree)
    if told.get("ID") in ("debian", "ubuntu") and told["ID"] != recipe.distro:
        raise ImageError(
            f"the image `{reference_of(recipe)}` is {told['ID']}, and the recipe's packages are for {recipe.distro}",
            where=key_of(recipe),
            hint=f"write `distro: {told['ID']}`, or name another image",
        )
    found = tuple(_installed(recipe, tree))
    others = {p.architecture for p in found} - {"all", request.architecture, *request.foreign}
    foreign = (*request.foreign, *sorted(others))
    return msgspec.structs.replace(request, provided=found, upgrades=True, foreign=foreign)


def _installed(recipe: Recipe, tree: Tree) -> list[Package]:
    entry = tree.get(STATUS)
    if entry is None or not tree.exists("usr/bin/dpkg"):
        name = _os_release(tree).get("ID", "")
        raise ImageError(
            f"nothing can be installed on `{reference_of(recipe)}`"
            + (f", which is {name}" if name and entry is None else "")
            + (": it has no dpkg database" if entry is None else ": it has no dpkg"),
            where=key_of(recipe),
            hint="leave `packages` out: `config`, `hooks` and `trim` work on any image",
        )
    found, unfinished = [], []
    for stanza in stanzas(tree.read(STATUS)):
        package = Package.parse(stanza)
        state = package.fields.get("status", "").rpartition(" ")[2]
        if state in INSTALLED:
            found.append(package)
        elif state not in GONE:
            unfinished.append(f"{package.name} is `{state}`")
    if unfinished:
        raise ImageError(
            f"the packages of `{reference_of(recipe)}` are not all configured: " + ", ".join(sorted(unfinished)[:20]),
            where=key_of(recipe),
            hint="run `dpkg --configure -a` in it and commit that, or build it again",
        )
    return found


def _os_release(tree: Tree) -> dict[str, str]:
    for path in ("etc/os-release", "usr/lib/os-release"):
        if tree.get(path) is not None:
            lines = tree.read(path).decode("utf-8", "replace").splitlines()
            return {k: v.strip("\"'") for k, _, v in (line.partition("=") for line in lines)}
    return {}


def install(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    items: Sequence[packages.Item],
    date: int | None,
    recipe: Recipe,
    environ: Mapping[str, str],
    offline: bool,
    progress: Progress,
) -> tuple[Root, int]:
    """Install packages over a parent's root; return the root, and when the newest of them was built (seconds).

    date: what SOURCE_DATE_EPOCH says. Raises MirrorError, TrustError, PackageError, SandboxError.
    """
    if not items:
        return root, 0
    files = packages.files(layers.store, items, environ, offline, progress)
    given = [onto.lent(file, item.expected) for item, file in zip(items, files, strict=True)]
    newest = max(p.layer.date for p in given)
    environment = rooting.environment_of(recipe)
    epoch = newest if date is None else date
    with progress.step(INSTALLING, len(given), "packages") as step:
        step.cached = layers.has(onto.install_key(root.key, [p.layer.key for p in given], epoch, environment))
        step.result = f"{len(given)} packages"
        root = onto.install(layers, identity, trees, root, given, epoch, environment, note=Following(progress))
    return root, newest
