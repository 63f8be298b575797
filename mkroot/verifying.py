"""Builds a recipe again from its lock in a fresh store, and tells in what the artifacts that are there differ."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import mkroot
from mkroot import lockfile, making, parents
from mkroot.archive import address
from mkroot.archive.mirror import SECURITY
from mkroot.artifact.contrast import json_difference
from mkroot.artifact.files import copy_file
from mkroot.artifact.folder import remove, target_folder
from mkroot.artifact.manifest import FILE_NAME as MANIFEST
from mkroot.artifact.manifest import read_manifest
from mkroot.artifact.provenance import FILE_NAME as RECORD
from mkroot.artifact.provenance import LOCAL, Statement, encode_statement, read_statement
from mkroot.build import open_recipe, placed
from mkroot.digest import sha256, sha256_file
from mkroot.errors import ArtifactError, LockError, MkrootError
from mkroot.oci.contrast import difference
from mkroot.oci.store import ImageStore
from mkroot.origins import origin
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.recipe.normal import digest as recipe_digest
from mkroot.resolve.lock import Lock
from mkroot.rootfs.identity import Identity
from mkroot.store.store import Store, default_root

if TYPE_CHECKING:
    from mkroot.build import Options

DEBS = "debs"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was built. where: the artifact's path. hint: the next step, "" for none."""

    where: str
    what: str
    hint: str = ""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact. size: bytes, 0 where it is missing. state: "same", "differs", "missing", "unknown"."""

    path: str
    size: int
    state: str


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one architecture.

    again: whether it was built again, which needs the same recipe and lock. by: the worker that did so; "" for this
    machine.
    """

    name: str
    architecture: str
    artifacts: tuple[Checked, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()
    again: bool = True
    by: str = ""

    @property
    def ok(self) -> bool:
        """Whether every artifact is what the lock gives."""
        return not self.faults


def verify(
    recipe: str, options: Options, environ: Mapping[str, str], progress: Progress, identity: Identity
) -> tuple[Verified, ...]:
    """Verify the artifacts in the output folder against their record and a second build, one result an architecture.

    The second build takes the lock and what the record says was asked for; its store is empty at first and goes
    afterwards. Packages are fetched anew, or with `offline` taken from the store by their digests. Raises MkrootError
    where there is nothing to verify: no lock, no artifacts, no record.
    """
    wanted = open_recipe(recipe, options)
    path = lockfile.lock_path(recipe, options.defines)
    if path is None:
        raise LockError("a recipe from standard input has no lock", hint="write it to a file")
    lock = lockfile.read_lock(path)
    if lock is None:
        raise LockError(
            "there is no lock, and only what was built from one can be built again",
            where=str(path),
            hint=f"run `mkroot build {recipe}`, which makes one",
        )
    try:
        store = Store(default_root(environ))
        return tuple(
            _verified(store, identity, recipe, wanted, lock, path, architecture, options, environ, progress)
            for architecture in wanted.arch
        )
    except MkrootError as e:
        raise placed(e, recipe, options) from e.__cause__


def _verified(
    store: Store,
    identity: Identity,
    shown: str,
    wanted: Recipe,
    lock: Lock,
    path: Path,
    architecture: str,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
) -> Verified:
    folder = target_folder(options.out, str(wanted.name), str(architecture))
    statement, data = record_of(folder, shown)
    recipe, options, environ = asked_for(shown, wanted, statement, options, environ)
    faults = other_inputs(recipe, lock, statement, shown, path, folder)
    notes = _notes(recipe, statement)
    if faults:
        checked, more = against_record(folder, statement)
        return _result(recipe, architecture, checked, [*faults, *more], notes, again=False)
    lockfile.check_fresh(lock, recipe, lockfile.spoken(shown, options.defines), path)
    with _fresh(store) as place:
        again = Store(place / "store")
        lend(store, again, recipe, lock, architecture, offline=options.offline)
        options = msgspec.structs.replace(
            options, out=place / "out", written=_written(folder, statement, recipe, architecture, options, environ)
        )
        making.make(again, identity, recipe, lock, architecture, options, environ, progress, [])
        new = target_folder(options.out, str(recipe.name), str(architecture))
        with progress.step("compare") as step:
            checked, faults = against_build(folder, new, statement, data)
            step.result = f"{len(checked)} artifacts"
    return _result(recipe, architecture, checked, faults, notes, again=True)


def _result(
    recipe: Recipe, architecture: str, checked: list[Checked], faults: list[Fault], notes: list[str], *, again: bool
) -> Verified:
    return Verified(
        name=str(recipe.name),
        architecture=str(architecture),
        artifacts=tuple(checked),
        faults=tuple(faults),
        notes=tuple(notes),
        again=again,
    )


# ---- what was asked for


def record_of(folder: Path, shown: str) -> tuple[Statement, bytes]:
    if not folder.is_dir():
        raise ArtifactError(
            "nothing is built there yet",
            where=str(folder),
            hint=f"run `mkroot build {shown}` first, or name the output folder with `-o DIR`",
        )
    try:
        return read_statement(folder / RECORD)
    except FileNotFoundError:
        raise ArtifactError(
            "the record of the build is missing: nobody can tell what these artifacts were made of",
            where=str(folder / RECORD),
            hint=f"build it again: `mkroot build {shown}`",
        ) from None


def asked_for(
    shown: str, wanted: Recipe, statement: Statement, options: Options, environ: Mapping[str, str]
) -> tuple[Recipe, Options, dict[str, str]]:
    """Return recipe, options and environment as they were for the build, by its record."""
    asked = statement.asked
    own = {str(name): str(value) for name, value in wanted.vars.items()}
    known = {n: v for n, v in asked.variables.items() if own.get(n, v) != v and n not in options.defines}
    options = msgspec.structs.replace(options, defines={**known, **options.defines}, tags=asked.tags)
    if asked.outputs != tuple(wanted.outputs):
        options = msgspec.structs.replace(options, outputs=asked.outputs)
    if asked.architectures != tuple(map(str, wanted.arch)):
        options = msgspec.structs.replace(options, architectures=asked.architectures)
    environ = {k: v for k, v in environ.items() if k != "SOURCE_DATE_EPOCH"}
    if asked.source_date_epoch is not None:
        environ["SOURCE_DATE_EPOCH"] = str(asked.source_date_epoch)
    return open_recipe(shown, options), options, environ


def other_inputs(recipe: Recipe, lock: Lock, statement: Statement, shown: str, path: Path, folder: Path) -> list[Fault]:
    """Return a fault where the recipe or the lock is not the one of the record: there is nothing to compare then."""
    record = str(folder / RECORD)
    hint = f"build it again: `mkroot build {shown}`"
    if statement.asked.recipe.get("sha256") != recipe_digest(recipe):
        what = f"the artifacts were built from another recipe than {shown} is now"
        return [Fault(where=record, what=what, hint=hint)]
    locked = statement.material("lock")
    if locked is None or locked.digest.get("sha256") != sha256(lock.encode()):
        what = f"the artifacts were built from another lock than {path} is now"
        return [Fault(where=record, what=what, hint=hint)]
    return []


def _notes(recipe: Recipe, statement: Statement) -> list[str]:
    notes = []
    if statement.version != mkroot.__version__:
        notes.append(
            f"built by mkroot {statement.version or 'of no known version'}, built again by {mkroot.__version__}: "
            "another version may give other bytes"
        )
    if any(hook.network for hook in recipe.hooks):
        notes.append("a hook has the network: what it fetches is in no lock, and may be another thing today")
    return notes


def _written(
    folder: Path, statement: Statement, recipe: Recipe, architecture: str, options: Options, environ: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return the addresses that apt in the image was given, where this build would give it others.

    The manifest has the mirror's, if it is the manifest of the record. Debian's security archive is the mirror's
    sibling unless this host knows better.
    """
    path = folder / MANIFEST
    wanted = _recorded(statement).get(MANIFEST)
    try:
        if digest_of(path) != wanted:
            return None
        used = read_manifest(path).mirror
    except (MkrootError, OSError):
        return None
    if not used or options.written is not None:
        return options.written
    if origin(recipe, architecture, options.mirror, environ).mirror.archive.url == used:
        return None
    archive = address.parse(used, str(path))
    return archive.url, archive.sibling(SECURITY, recipe.distro).url if recipe.distro == "debian" else ""


# ---- the fresh store


@contextlib.contextmanager
def _fresh(store: Store) -> Iterator[Path]:
    """Yield an empty folder on the store's file system, which goes afterwards with all that a build leaves in it."""
    place = Path(tempfile.mkdtemp(prefix="verify.", dir=store.root / "tmp"))
    try:
        yield place
    finally:
        remove(place)


def lend(store: Store, again: Store, recipe: Recipe, lock: Lock, architecture: str, *, offline: bool) -> None:
    """Give a fresh store what it cannot fetch: the parent image and, offline, the packages as they were fetched.

    What is lent is checked against the lock's digests by whoever reads it.
    """
    locked = lock.root(architecture)
    if locked.parent is not msgspec.UNSET:
        image = parents.pinned(store, recipe, architecture, locked.parent)
        target = ImageStore(again)
        with target.using():
            blobs = (image.descriptor, image.manifest.config, *image.manifest.layers)
            target.add_blobs(ImageStore(store).layout(), blobs)
            target.keep(image.descriptor)
    for p in (*locked.packages, *locked.beside) if offline else ():
        held = store.path(DEBS, p.sha256)
        if held.exists():
            with again.writing(DEBS, p.sha256, sync=False) as aside:
                try:
                    os.link(held, aside)
                except OSError:
                    copy_file(held, aside)


# ---- comparing


def _recorded(statement: Statement) -> dict[str, str]:
    """Return the digests that a record has of files and images, hexadecimal, by the artifact's name."""
    return {s.name: s.digest["sha256"] for s in statement.subject if "sha256" in s.digest}


def digest_of(path: Path) -> str | None:
    """Return an artifact's own digest as a record has it; None for a folder, which has none that is quickly told."""
    return None if path.is_dir() else sha256_file(path)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(path) for name in names)


def against_record(folder: Path, statement: Statement) -> tuple[list[Checked], list[Fault]]:
    """Check files against the record alone."""
    recorded = _recorded(statement)
    checked, faults = [], []
    for name in sorted(s.name for s in statement.subject):
        path = folder / name
        if not path.exists():
            checked.append(Checked(path=str(path), size=0, state="missing"))
            faults.append(Fault(where=str(path), what="the artifact is missing"))
            continue
        found = digest_of(path)
        other = found is not None and found != recorded.get(name)
        checked.append(Checked(path=str(path), size=_size(path), state="differs" if other else "unknown"))
        if other:
            faults.append(Fault(where=str(path), what="not what the record of the build names: it was changed since"))
    return checked, faults


def against_build(folder: Path, new: Path, statement: Statement, data: bytes) -> tuple[list[Checked], list[Fault]]:
    """Check every artifact against the record and the second build, and the record against the second one."""
    fresh, _ = read_statement(new / RECORD)
    recorded, rebuilt = ({s.name: dict(s.digest) for s in one.subject} for one in (statement, fresh))
    there = set(os.listdir(folder)) - {RECORD}
    checked: list[Checked] = []
    faults = _local_faults(statement, fresh)
    for name in sorted(recorded.keys() | rebuilt.keys() | there):
        path = folder / name
        if name not in there:
            checked.append(Checked(path=str(path), size=0, state="missing"))
            faults.append(Fault(where=str(path), what="the artifact is missing"))
        elif name not in rebuilt:
            checked.append(Checked(path=str(path), size=_size(path), state="unknown"))
            faults.append(Fault(where=str(path), what="not of this build", hint="remove it, or put it elsewhere"))
        else:
            other, what = _compared(path, new / name, recorded.get(name), rebuilt[name])
            checked.append(Checked(path=str(path), size=_size(path), state="differs" if other else "same"))
            if what:
                faults.append(Fault(where=str(path), what=what))
    if not faults:
        faults += _record_faults(folder, statement, fresh, data)
    return checked, faults


def _compared(path: Path, new: Path, recorded: dict[str, str] | None, rebuilt: dict[str, str]) -> tuple[bool, str]:
    """Return whether an artifact differs from the one built again, and what is wrong with it, "" for nothing."""
    found = digest_of(path)
    same = found is not None and found == rebuilt.get("sha256")
    what = "" if same else difference(path, new)
    if not what:
        return False, "" if recorded == rebuilt else "the record of the build names another digest than it has"
    if recorded == rebuilt:
        return True, f"changed since it was built: {what}"
    if found is None or found == (recorded or {}).get("sha256"):
        return True, f"the second build gives other bytes: {what}"
    return True, f"neither what the record of the build names nor what is built again: {what}"


def _local_faults(statement: Statement, fresh: Statement) -> list[Fault]:
    """Return a fault for each local file of the recipe that is another one than the record names."""
    found = []
    for material in fresh.predicate.build_definition.resolved_dependencies:
        before = statement.material(material.name)
        if material.name.startswith(LOCAL) and before is not None and before.digest != material.digest:
            what = "the recipe's file is another one than when it was built"
            found.append(Fault(where=f"`{material.name.removeprefix(LOCAL)}`", what=what))
    return found


def _record_faults(folder: Path, statement: Statement, fresh: Statement, data: bytes) -> list[Fault]:
    """Return a fault where the record says something else of the build than the second one's."""
    run = msgspec.structs.replace(fresh.predicate, run_details=statement.predicate.run_details)
    expected = encode_statement(msgspec.structs.replace(fresh, predicate=run))
    if expected == data:
        return []
    what = json_difference(data, expected) or "written in another form"
    return [Fault(where=str(folder / RECORD), what=f"the record of the build was changed: {what}")]
