"""From a command line's recipes, values and architectures to the jobs of a run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product

import msgspec

from mkroot import lockfile
from mkroot.build import Options, open_recipe, placed
from mkroot.errors import ImageError, MkrootError, RecipeError, UsageError
from mkroot.fleet.model import Fault, Job
from mkroot.fleet.perform import faults_of
from mkroot.recipe.model import Recipe
from mkroot.recipe.standing import reference_of
from mkroot.store.store import Store

ARCHITECTURES = ("amd64", "arm64", "armhf", "i386", "riscv64", "ppc64el", "s390x")  # that `--all-arch` chooses from


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe with one choice of values as the command line names it.

    path: where it is read, another place for a bundle's. faults: of one that cannot be opened.
    """

    shown: str
    path: str
    options: Options
    faults: tuple[Fault, ...] = ()


class Variant(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A recipe with one choice of values, all its architectures together: what has one lock.

    shown: what to call it. path: where it is read. options: of its build, the values among them. varied: names of those
    of which the run takes several. every: it is for each architecture of its archive. recipe: None of one that cannot
    be read, which `faults` tell.
    """

    shown: str
    path: str
    options: Options
    varied: tuple[str, ...] = ()
    every: bool = False
    recipe: Recipe | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def label(self) -> str:
        """What to call it in a line: the recipe and the values that tell it from others."""
        values = [f"{name}={self.options.defines[name]}" for name in self.varied]
        return " ".join((self.shown, *values))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Its jobs, one an architecture; one without any where it cannot be read."""
        recipe = self.recipe
        job = Job(recipe=self.shown, defines=self.options.defines, varied=self.varied)
        if recipe is None:
            return (job,)
        name, suite = str(recipe.name), str(recipe.suite)
        return tuple(
            msgspec.structs.replace(job, name=name, suite=suite, architecture=str(architecture))
            for architecture in recipe.arch
        )

    @cached_property
    def lock(self) -> str | None:
        """The path of its lock; None where it is to have none."""
        if self.options.lock == "none":
            return None
        if self.varied:
            return str(lockfile.variant_path(self.path, self.options.defines, self.varied))
        path = lockfile.lock_path(self.path, self.options.defines)
        return None if path is None else str(path)

    @property
    def images(self) -> bool:
        """Whether it puts an image into the image store."""
        recipe = self.recipe
        return recipe is not None and bool("oci" in recipe.outputs or recipe.image.tags or self.options.tags)

    @property
    def tags(self) -> tuple[str, ...]:
        """The names in full that its image gets in the image store; raises ImageError."""
        from mkroot.oci.reference import Reference

        recipe = self.recipe
        if recipe is None or not self.images:
            return ()
        given = (*map(str, recipe.image.tags), *self.options.tags) or (f"{recipe.name}:latest",)
        return tuple(dict.fromkeys(Reference.parse(tag).tagged for tag in given))

    @property
    def stands_on(self) -> str:
        """The name in full of the image that its root is or stands on, "" for none; raises ImageError."""
        from mkroot.oci.reference import Reference

        reference = "" if self.recipe is None else reference_of(self.recipe)
        return Reference.parse(reference).tagged if reference else ""


def choices(given: Sequence[str]) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    r"""Return every choice of the values that `-D NAME=A,B` texts name, and the names that have several.

    A comma parts values; `\,` is a comma of a value. Raises UsageError.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise UsageError(f"`-D {text}` is not NAME=VALUE", hint="write `-D release=jammy`")
        parts = [part.replace("\\,", ",") for part in re.split(r"(?<!\\),", values)]
        if len(parts) > 1 and "" in parts:
            raise UsageError(f"`-D {text}` names a value that is empty", hint="write `-D suite=bookworm,trixie`")
        found[name] = tuple(dict.fromkeys(parts))
    varied = tuple(name for name in sorted(found) if len(found[name]) > 1)
    return tuple(dict(zip(found, values)) for values in product(*found.values())), varied


def variants(
    given: Iterable[Given], varied: Sequence[str], taken: ArchitecturesOf | None = None
) -> tuple[Variant, ...]:
    """Read recipes, each with its values, in order; one that cannot be read is there with its faults.

    varied: names of the variables of which there are several values. taken: what tells the architectures of a recipe,
    in place of its own. What is named twice is there once.
    """
    found: dict[tuple[str, tuple[tuple[str, str], ...]], Variant] = {}
    for one in given:
        key = (one.shown, tuple(sorted(one.options.defines.items())))
        if key not in found:
            variant = Variant(
                shown=one.shown, path=one.path, options=one.options, varied=tuple(varied), faults=one.faults
            )
            found[key] = variant if one.faults else _read(variant, taken)
    return tuple(found.values())


def _read(variant: Variant, taken: ArchitecturesOf | None) -> Variant:
    options = variant.options
    try:
        recipe = open_recipe(variant.path, options)
        if taken is not None:
            try:
                architectures = taken(recipe, variant)
            except MkrootError as e:
                raise placed(e, variant.path, options) from e.__cause__
            options = msgspec.structs.replace(options, architectures=architectures)
            recipe = msgspec.structs.replace(recipe, arch=architectures)
    except MkrootError as e:
        return msgspec.structs.replace(variant, faults=faults_of(e))
    return msgspec.structs.replace(variant, options=options, recipe=recipe, every=taken is not None)


class ArchitecturesOf:
    """Tells the architectures that a recipe's archive has, asked once for each archive and suite.

    Offline it is what the recipe's lock has, else what the store remembers of the archive.
    """

    def __init__(self, store: Store, environ: Mapping[str, str]) -> None:
        self._store = store
        self._environ = environ
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}

    def __call__(self, recipe: Recipe, variant: Variant) -> tuple[str, ...]:
        """Return them in the order of ARCHITECTURES; raises MirrorError, TrustError, RecipeError."""
        options = variant.options
        if options.offline and variant.lock is not None:
            from pathlib import Path

            lock = lockfile.read_lock(Path(variant.lock))
            if lock is not None:
                return tuple(a for a in ARCHITECTURES if a in lock.architectures)
        key = (recipe.distro, str(recipe.suite), recipe.mirror, options.mirror, recipe.snapshot, recipe.keyring)
        if key not in self._known:
            self._known[key] = self._asked(recipe, options)
        return self._known[key]

    def _asked(self, recipe: Recipe, options: Options) -> tuple[str, ...]:
        from mkroot.archive.http import Http
        from mkroot.archive.inrelease import Policy, obtain
        from mkroot.origins import origin
        from mkroot.sources import dated

        place = origin(recipe, str(recipe.arch[0]), options.mirror, self._environ)
        policy = Policy(now=int(time.time()), offline=options.offline, allow_expired=options.allow_expired)
        http = Http(self._environ)
        try:
            place = dated(self._store, recipe, place, http=http, policy=policy, environ=self._environ)
            source = place.sources[0]
            release = obtain(self._store, source, source.suites[0], http, policy).release
        finally:
            http.close()
        found = tuple(a for a in ARCHITECTURES if a in release.architectures)
        if not found:
            raise RecipeError(
                f"the archive of `{recipe.suite}` has no architecture that mkroot knows",
                where="suite",
                hint=f"it has: {' '.join(release.architectures) or 'none'}",
            )
        return found


# ---- what cannot be


def clash(wanted: Sequence[Variant]) -> UsageError | None:
    """Return why some variants cannot be built in one run: two of them would write one folder, or give one tag."""
    folders: dict[tuple[str, str], Variant] = {}
    tags: dict[str, Variant] = {}
    for variant in wanted:
        for job in variant.jobs if variant.recipe is not None else ():
            other = folders.setdefault((job.name, job.architecture), variant)
            if other is not variant:
                place = variant.options.out / job.name / job.architecture
                return UsageError(
                    f"`{other.label}` and `{variant.label}` would both write {place}", hint=_advice(other, variant)
                )
        for tag in _tags(variant):
            other = tags.setdefault(tag, variant)
            if other is not variant:
                return UsageError(
                    f"`{other.label}` and `{variant.label}` would both give their image the tag `{tag}`",
                    hint=_advice(other, variant, "tag"),
                )
    return None


def _advice(one: Variant, other: Variant, what: str = "name") -> str:
    if one.path == other.path and other.varied:
        values = " and ".join(f"`${{{name}}}`" for name in other.varied)
        key = "`name:`" if what == "name" else "`image.tags`"
        return f"put {values} into {key} of the recipe"
    return f"give one of them another {what}, or build them one after the other"


def _tags(variant: Variant) -> tuple[str, ...]:
    try:
        return variant.tags
    except ImageError:  # the build tells
        return ()


def bases(wanted: Sequence[Variant]) -> dict[int, int]:
    """Return for each variant, by place, the one whose image it stands on, where this run makes that.

    Raises UsageError where some stand on each other.
    """
    made = {tag: number for number, variant in enumerate(wanted) for tag in _tags(variant)}
    found: dict[int, int] = {}
    for number, variant in enumerate(wanted):
        try:
            base = made.get(variant.stands_on)
        except ImageError:
            continue
        if base is not None and base != number:
            found[number] = base
    for number in found:
        seen = [number]
        while (number := found.get(number, -1)) >= 0:
            if number in seen:
                names = ", ".join(f"`{wanted[n].label}`" for n in sorted(seen[seen.index(number) :]))
                raise UsageError(f"images that stand on each other: {names}", hint="build one of them alone first")
            seen.append(number)
    return found
