"""Builds once more what another machine has built, with nothing of what the machines share, and compares."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from mkroot import making, verifying
from mkroot.artifact.folder import remove, target_folder
from mkroot.artifact.manifest import FILE_NAME as MANIFEST
from mkroot.artifact.manifest import read_manifest
from mkroot.artifact.provenance import FILE_NAME as RECORD
from mkroot.artifact.provenance import read_statement
from mkroot.errors import StoreError
from mkroot.remote.attaching import remote_of
from mkroot.remote.restoring import look, restore
from mkroot.remote.results import steps_of
from mkroot.store.store import Store
from mkroot.verifying import Checked, Fault

if TYPE_CHECKING:
    from mkroot.build import Options
    from mkroot.progress import Progress
    from mkroot.recipe.model import Recipe
    from mkroot.remote.results import Step as Layer
    from mkroot.resolve.lock import Lock
    from mkroot.rootfs.identity import Identity


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a second build found. artifacts, faults: with paths below the output folder. step: where they differ."""

    artifacts: tuple[Checked, ...]
    faults: tuple[Fault, ...]
    step: str = ""


def rebuild(
    store: Store,
    identity: Identity,
    recipe: Recipe,
    lock: Lock,
    architecture: str,
    key: str,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
) -> Rebuilt:
    """Build a recipe from its lock in a fresh store, and compare with the first build, as the remote store has it.

    store: with the remote store attached, from which the first build is taken and nothing else. key: the build's, as
    `mkroot.making` has it. Raises MkrootError.
    """
    floor = remote_of(store)
    found = look(floor, store, key) if floor is not None else None
    if floor is None or found is None:
        raise StoreError("the first build is not in the remote store", hint="build it first: `mkroot build`")
    name, place = str(recipe.name), store.folder("rebuild.")
    try:
        if not restore(floor, Store(place / "first"), found, place / "before", name, architecture, []):
            raise StoreError("the remote store does not give out all of the first build", hint="build it again")
        again = Store(place / "again")
        verifying.lend(store, again, recipe, lock, architecture, offline=options.offline)
        options = msgspec.structs.replace(options, out=place / "after")
        making.make(again, identity, recipe, lock, architecture, options, environ, progress, [])
        before, after = (target_folder(place / part, name, architecture) for part in ("before", "after"))
        statement, data = read_statement(before / RECORD)
        with progress.step("compare") as step:
            checked, faults = verifying.against_build(before, after, statement, data)
            step.result = f"{len(checked)} artifacts"
        tree = read_manifest(after / MANIFEST).tree.removeprefix("sha256:")
        differs = differing(found.result.steps, tuple(steps_of(again, [tree]))) if faults else ""
        prefix = f"{place / 'before'}{os.sep}"
        return Rebuilt(
            artifacts=tuple(msgspec.structs.replace(c, path=c.path.removeprefix(prefix)) for c in checked),
            faults=tuple(msgspec.structs.replace(f, where=f.where.removeprefix(prefix)) for f in faults),
            step=differs,
        )
    finally:
        remove(place)


def differing(first: Sequence[Layer], second: Sequence[Layer]) -> str:
    """Return what to call the first step of which two builds made different things; the image's where none did."""
    for one, other in zip(first, second):
        if (one.name, one.record, one.frame) != (other.name, other.record, other.frame):
            return f"`{one.name}`"
    if len(first) != len(second):
        return f"the number of steps, {len(first)} and {len(second)}" if first else ""
    return "image: the root's layers are the same in both builds"
