"""Makes a recipe's lock of what the archives have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from mkroot import decided
from mkroot.archive.http import Http
from mkroot.decided import Answer
from mkroot.errors import ResolutionError
from mkroot.lockfile import digest
from mkroot.origins import Origin, origin
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.recipe.standing import installs, reference_of, stands_on
from mkroot.resolve.lock import Lock, LockedRoot, LockedSource, LockedSuite, lock_root
from mkroot.resolve.request import Request
from mkroot.sources import Archive, look, request
from mkroot.store.store import Store

if TYPE_CHECKING:
    from mkroot.debian.package import Package
    from mkroot.looking import Looking
    from mkroot.oci.store import Image
    from mkroot.renewing import Renewal, Update
    from mkroot.resolve.universe import Universe

TOOLS = ("grub-common", "kmod")  # packages beside the root whose programs are run over it, so with their dependencies


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at the archives gave for one architecture.

    request: what was asked of them. root: the answer. notes: what the user should know of it.
    """

    origin: Origin
    archive: Archive
    request: Request
    root: LockedRoot
    notes: tuple[str, ...] = ()


def find(
    store: Store,
    recipe: Recipe,
    architecture: str,
    *,
    mirror: str | None,
    offline: bool,
    allow_expired: bool,
    before: Lock | None,
    update: Update | None,
    environ: Mapping[str, str],
    progress: Progress,
    looking: Looking = look,
) -> Found:
    """Look at the archives and resolve; raises MirrorError, TrustError, ResolutionError, ImageError.

    before: the lock that there is, whose Releases must not be older. update: what of it is renewed; where that is a
    part of it, the other packages keep their versions. looking: what looks at the archives.
    """
    image = _parent(store, recipe, architecture)
    http = Http(environ, tell=progress.warn)
    try:
        with progress.step("indices", None, "indices") as step:
            place = origin(recipe, architecture, mirror, environ)
            if image is not None and not installs(recipe):
                archive = Archive(store=store)  # only what is in the image is worked upon
            else:
                archive = looking(
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
        with progress.step("resolve") as step:
            asked = request(recipe, architecture, archive.local)
            if image is not None and stands_on(recipe):
                asked = _over(store, image, asked, recipe)
            question = _Question(store, recipe, architecture, archive, image.digest if image is not None else "")
            old = before.architectures.get(architecture) if before is not None else None
            if update is not None and update.partial and old is not None:
                from mkroot.keeping import kept
                from mkroot.renewing import renew

                keep = partial(kept, archive=archive, place=place, http=http, offline=offline)
                answer: Answer | Renewal = renew(old, update, asked, question.parent, archive, question.ask, keep)
            else:
                answer = question.ask(asked, ())
            step.cached = question.known
            root, extra = answer.root, len(answer.root.beside)
            step.result = f"{len(root.packages)} packages" + (f", {extra} beside" if extra else "")
    finally:
        http.close()
    for note in answer.notes:
        progress.warn(note)
    return Found(origin=place, archive=archive, request=asked, root=root, notes=answer.notes)


class _Question:
    """What is asked of the resolver, but for the request; answers are kept in the store.

    parent: digest of the image that the root is, or stands on. known: nothing had to be resolved.
    """

    def __init__(self, store: Store, recipe: Recipe, architecture: str, archive: Archive, parent: str) -> None:
        self._store = store
        self._recipe = recipe
        self._architecture = architecture
        self._archive = archive
        self.parent = parent
        self.known = True

    def ask(self, asked: Request, added: Sequence[Package]) -> Answer:
        """Return the answer to a request; raises ResolutionError, LockError, StoreError.

        added: packages that the archives have not.
        """
        boot = [*_booted(self._recipe), self._recipe.components] if self._recipe.boot is not None else []
        more = [self.parent, boot, *([[p.sha256 for p in added]] if added else [])]
        key = decided.key_of(asked, self._archive.indices, more)
        answer = decided.recall(self._store, key)
        if answer is None:
            self.known = False
            universe: Universe = self._archive.universe()
            if added:
                from mkroot.resolve.widened import Widened

                universe = Widened(universe, added)
            answer = _answered(self._recipe, self._architecture, universe, asked, self.parent, key)
            decided.keep(self._store, answer)
        return answer


def _parent(store: Store, recipe: Recipe, architecture: str) -> Image | None:
    if not reference_of(recipe):
        return None
    from mkroot.parents import parent

    return parent(store, recipe, architecture)


def _over(store: Store, image: Image, asked: Request, recipe: Recipe) -> Request:
    """Return the request as it is made over a parent: its packages are there."""
    from mkroot.oci.layers import image_root
    from mkroot.oci.store import ImageStore
    from mkroot.parents import over
    from mkroot.store.layer import LayerStore

    return over(asked, recipe, image_root(LayerStore(store), ImageStore(store), image).tree)


def _booted(recipe: Recipe) -> list[object]:
    """Return what of the recipe decides which packages make the bootfs."""
    assert recipe.boot is not None
    boot = recipe.boot
    return [str(boot.kernel), boot.loader, boot.initramfs, boot.firmware, str(boot.rootfs), "iso" in recipe.outputs]


def _answered(recipe: Recipe, architecture: str, universe: Universe, asked: Request, parent: str, key: str) -> Answer:
    """Resolve; raises ResolutionError, LockError."""
    from mkroot.resolve.resolver import beside, resolve

    resolution = resolve(universe, asked)
    files, tools = _boot_packages(recipe, architecture, universe)
    foreign = recipe.boot is not None and parent and recipe.boot.rootfs != "own"
    kernel = str(recipe.boot.kernel) if recipe.boot is not None and foreign else ""
    extra = beside(universe, asked, resolution, files, tools, kernel)
    return Answer(key=key, root=lock_root(resolution, extra, parent), notes=tuple(resolution.notes))


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
    roots = {architecture: one.root for architecture, one in found.items()}
    return Lock(
        recipe=digest(recipe),
        sources=tuple(LockedSource(id=i, suites=tuple(s.values())) for i, s in sources.items()),
        architectures=roots,
    )
