"""A recipe's lock: made from what the archives have, kept beside the recipe, used as long as it fits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from mkroot import parents
from mkroot.archive.http import Http
from mkroot.digest import sha256
from mkroot.errors import LockError, ResolutionError
from mkroot.oci.store import Image, ImageStore
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.recipe.normal import plain
from mkroot.resolve.lock import Lock, LockedRoot, LockedSource, LockedSuite, decode_lock, held, lock_root
from mkroot.resolve.resolution import Resolution, Resolved
from mkroot.resolve.resolver import beside, resolve
from mkroot.resolve.universe import Universe
from mkroot.rootfs.tree import Tree
from mkroot.sources import Archive, Origin, look, nothing, origin, request
from mkroot.store.layer import LayerStore
from mkroot.store.replaced import replace
from mkroot.store.store import Store

# What of a recipe decides which packages are locked. A new motd or another output leaves the lock as it is.
_DECIDES = ("version", "distro", "suite", "components", "pockets", "snapshot", "keyring", "sources", "pins", "packages")


TOOLS = ("grub-common", "kmod")  # packages beside the root whose programs are run over it, so with their dependencies


def digest(recipe: Recipe) -> str:
    """Return the digest that a lock holds: of the normal form of all that decides which packages are locked."""
    whole = plain(recipe)
    kept = {key: whole[key] for key in _DECIDES if key in whole}
    if recipe.boot is not None:
        kept["boot"] = {
            "kernel": str(recipe.boot.kernel),
            "loader": recipe.boot.loader,
            "initramfs": recipe.boot.initramfs,
            "firmware": recipe.boot.firmware,
            "iso": "iso" in recipe.outputs,
            "grow": recipe.disk.grow,
        }
        if recipe.boot.rootfs != "own":
            kept["boot"]["rootfs"] = str(recipe.boot.rootfs)
    if str(recipe.image.parent) != "none":
        kept["from"] = str(recipe.image.parent)
    return sha256(json.dumps(kept, sort_keys=True, ensure_ascii=False).encode())


def lock_path(recipe: str) -> Path | None:
    """Return the path of a recipe's lock: beside it, its suffix replaced; None for standard input."""
    return None if recipe == "-" else Path(recipe).with_suffix(".lock")


def read_lock(path: Path) -> Lock | None:
    """Return the lock at `path`, None where there is none; raises LockError."""
    try:
        return decode_lock(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise LockError(f"the lock cannot be read: {e.strerror}", where=str(path)) from None


def check_fresh(lock: Lock, recipe: Recipe, shown: str, path: Path) -> None:
    """Raise LockError where the lock was made for a recipe that asked for other packages."""
    if lock.stale(digest(recipe)):
        raise LockError(
            "the lock is stale: the recipe asks for other packages than when it was made",
            where=str(path),
            hint=f"run `mkroot lock {shown}`",
        )


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock aside, sync and rename it; raises LockError. Equal bytes are left as they are."""
    data = lock.encode()
    try:
        if path.exists() and path.read_bytes() == data:
            return
        replace(path, data)
    except OSError as e:
        raise LockError(
            f"the lock cannot be written: {e.strerror}",
            where=str(path),
            hint="make the recipe's folder writable, or build with `--no-lock`",
        ) from None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the archives gave for one architecture.

    parent: digest of the image that the root is, or stands on.
    """

    origin: Origin
    archive: Archive
    resolution: Resolution
    beside: tuple[Resolved, ...] = ()
    parent: str = ""


def find(
    store: Store,
    recipe: Recipe,
    architecture: str,
    *,
    mirror: str | None,
    offline: bool,
    allow_expired: bool,
    before: Lock | None,
    update: Iterable[str] | None,
    environ: Mapping[str, str],
    progress: Progress,
) -> Found:
    """Look at the archives and resolve; raises MirrorError, TrustError, ResolutionError, ImageError.

    before: the lock that there is, whose Releases must not be older and, with `update` (names), whose versions are kept
    but for those.
    """
    image = parents.parent(store, recipe, architecture)
    http = Http(environ, tell=progress.warn)
    try:
        with progress.step("indices", None, "indices") as step:
            place = origin(recipe, architecture, mirror, environ)
            if image is not None and not parents.installs(recipe):
                archive = nothing(store)  # only what is in the image is worked upon
            else:
                archive = look(
                    store,
                    recipe,
                    place,
                    http=http,
                    offline=offline,
                    allow_expired=allow_expired,
                    not_before=_dates(before) if not recipe.snapshot else {},
                    environ=environ,
                    progress=progress,
                )
            step.result = f"{len(archive.suites)} suites"
    finally:
        http.close()
    with progress.step("resolve") as step:
        asked = request(recipe, architecture, archive.local)
        if image is not None and parents.stands_on(recipe):
            asked = parents.over(asked, recipe, _tree(store, image))
        if update is not None and before is not None and architecture in before.architectures:
            asked = msgspec.structs.replace(asked, locked=held(before.architectures[architecture], update))
        resolution = resolve(archive.universe, asked)
        files, tools = _boot_packages(recipe, architecture, archive.universe)
        foreign = recipe.boot is not None and image is not None and recipe.boot.rootfs != "own"
        kernel = str(recipe.boot.kernel) if recipe.boot is not None and foreign else ""
        extra = beside(archive.universe, asked, resolution, files, tools, kernel)
        step.result = f"{len(resolution.packages)} packages" + (f", {len(extra)} beside" if extra else "")
    for note in resolution.notes:
        progress.warn(note)
    digest = image.digest if image is not None else ""
    return Found(origin=place, archive=archive, resolution=resolution, beside=extra, parent=digest)


def _tree(store: Store, image: Image) -> Tree:
    from mkroot.oci.layers import image_root

    return image_root(LayerStore(store), ImageStore(store), image).tree


def _boot_packages(recipe: Recipe, architecture: str, universe: Universe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the packages that only make the bootfs: those with files for it, and tools that are run."""
    if recipe.boot is None:
        return (), ()
    from mkroot.boot.loaders import OLDER, component, packages_for

    boot = recipe.boot
    wanted = packages_for(
        recipe.distro,
        boot.loader,
        boot.firmware,
        boot.initramfs,
        architecture,
        iso="iso" in recipe.outputs,
        image=boot.rootfs != "own",
    )
    names = [n if n not in OLDER or universe.packages(n) else OLDER[n] for n in wanted]
    for name, old in zip(names, wanted, strict=True):
        if name != old and component(recipe.distro, old) not in recipe.components:
            raise ResolutionError(
                f"the boot loader `{boot.loader}` is in the package {old}, in the component "
                f"`{component(recipe.distro, old)}`",
                where="components",
                hint="add that component to the recipe, or choose `loader: grub`",
            )
    return tuple(n for n in names if n not in TOOLS), tuple(n for n in names if n in TOOLS)


def _dates(lock: Lock | None) -> dict[tuple[str, str], int]:
    return {} if lock is None else {(s.id, suite.suite): suite.date for s in lock.sources for suite in s.suites}


def locked(recipe: Recipe, found: Mapping[str, Found]) -> Lock:
    """Return the lock of what was found, by architecture; raises LockError."""
    sources: dict[str, dict[str, LockedSuite]] = {}
    for one in found.values():
        for suite in one.archive.suites:
            sources.setdefault(suite.source, {})[suite.suite] = LockedSuite(
                suite=suite.suite,
                inrelease=suite.sha256,
                date=suite.date,
                signer=suite.fingerprint.upper(),
                allow_expired=suite.expired,
                snapshot=str(recipe.snapshot or "") if suite.source == recipe.distro else "",
            )
    roots: dict[str, LockedRoot] = {a: lock_root(f.resolution, f.beside, f.parent) for a, f in found.items()}
    return Lock(
        recipe=digest(recipe),
        sources=tuple(LockedSource(id=i, suites=tuple(s.values())) for i, s in sources.items()),
        architectures=roots,
    )


def check_limits(recipe: Recipe, root: LockedRoot) -> None:
    """Raise ResolutionError where the packages are more than the recipe's `limits` allow, naming those to blame."""
    limits = recipe.limits
    if limits.packages is not None and len(root.packages) > limits.packages:
        late = [p for p in root.packages if p.stage == "include"] or list(root.packages)
        lines = [f"  {p.name}: {p.why}" for p in late[:15]]
        raise ResolutionError(
            f"{len(root.packages)} packages are more than `limits.packages: {limits.packages}`; the recipe's own are\n"
            + "\n".join(lines),
            hint="`mkroot why RECIPE PACKAGE` tells the chain of any of them",
        )
    total = sum(p.installed_size for p in root.packages) * 1024
    if limits.rootfs is not None and total > limits.rootfs * 4:
        raise ResolutionError(
            f"the packages say that they take {total >> 20} MiB, far over `limits.rootfs`",
            hint="`mkroot size RECIPE` tells where the bytes come from",
        )
