"""Does one step in this process, and tells what became of it: nothing that goes wrong in a step is raised."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from mkroot import build, lockfile
from mkroot.digest import sha256
from mkroot.errors import (
    Faults,
    LockError,
    MirrorError,
    MkrootError,
    PackageError,
    TrustError,
    UsageError,
    masked,
    printable,
    shortened,
)
from mkroot.fleet.model import DONE, FAILED, IMAGE, INDEX, LOCK, PACKAGES, STAGE, VERIFY, Fault, Order, Outcome, Step
from mkroot.mending import mending
from mkroot.progress import Progress
from mkroot.progress import Step as Told
from mkroot.recipe.model import Recipe
from mkroot.remote import attached
from mkroot.resolve.lock import Lock
from mkroot.rootfs.identity import Identity
from mkroot.store.store import Store, default_root
from mkroot.store.use import using


def perform(step: Step, environ: Mapping[str, str], identity: Identity) -> Outcome:
    """Do a step in this machine's store and return its outcome, DONE or FAILED."""
    log = Log()
    begin = time.time()
    result: bytes = b""
    faults: tuple[Fault, ...] = ()
    try:
        store = Store(default_root(environ))
        with using(store), _opened(store, step.order) as (recipe, lock, options):
            try:
                result = _Work(store, identity, recipe, lock, options, environ, log).do(step)
            except MkrootError as e:
                raise build.placed(e, recipe, options) from e.__cause__
    except Exception as e:
        faults = faults_of(e)
        if any(fault.internal for fault in faults):
            log.lines.append(masked("".join(traceback.format_exception(e))).rstrip("\n"))
    state = FAILED if faults else DONE
    text = "".join(f"{printable(line)}\n" for line in log.lines)
    return Outcome(key=step.key, state=state, begin=begin, end=time.time(), log=text, faults=faults, result=result)


class Log(Progress):
    """Keeps as lines what a build tells on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def end(self, step: Told) -> None:
        """Add a line for a step that has ended."""
        note = ", ".join(part for part in (step.note, "cached" if step.cached else "") if part)
        self.lines.append(f"{step.seconds:8.2f} s  {step.name:<20}  {note}".rstrip())

    def warn(self, line: str) -> None:
        """Add a warning."""
        self.lines.append(f"warning: {masked(line)}")


def faults_of(error: BaseException) -> tuple[Fault, ...]:
    """Return what went wrong in the words of a message; what nobody foresaw is internal."""
    if isinstance(error, Faults):
        return tuple(fault for one in error.faults for fault in faults_of(one))
    if isinstance(error, MkrootError):
        return (Fault(what=error.what, where=error.where or "", hint=error.hint or ""),)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (Fault(what="the disk is full", hint="free some space; `mkroot cache size` tells what the store takes"),)
    if (
        isinstance(error, OSError)
        and error.errno
        and (error.filename is not None or error.errno not in (errno.ENOENT, errno.EBADF))
    ):
        where = "" if error.filename is None else masked(printable(os.fsdecode(error.filename)))
        return (Fault(what=os.strerror(error.errno).lower(), where=where),)
    if isinstance(error, MemoryError):
        return (Fault(what="not enough memory", hint="let fewer steps run at a time: `--jobs 1`"),)
    text = shortened(printable(masked(str(error))), 2000)
    name = type(error).__name__
    return (Fault(what=f"internal error: {name}: {text}" if text else f"internal error: {name}", internal=True),)


# ---- options as bytes

_OPTIONS = msgspec.msgpack.Decoder(build.Options, dec_hook=lambda kind, value: kind(os.fsdecode(value)))


def encode_options(options: build.Options) -> bytes:
    """Return a build's options as an order has them."""
    return msgspec.msgpack.encode(options, enc_hook=os.fsencode)


def decode_options(data: bytes) -> build.Options:
    """Return the options of an order; raises UsageError where they are of another version."""
    if not data:
        return build.Options()
    try:
        return _OPTIONS.decode(data)
    except msgspec.MsgspecError as e:
        raise UsageError(f"an order of another version of mkroot: {e}") from None


# ---- the work


@contextlib.contextmanager
def _opened(store: Store, order: Order) -> Iterator[tuple[str, Path | None, build.Options]]:
    """Yield the recipe's path, its lock's (None: there is none yet) and the options of an order."""
    options = decode_options(order.options)
    if not order.parcel:
        usual = None if options.lock == "none" else lockfile.lock_path(order.recipe, options.defines)
        yield order.recipe, Path(order.lock) if order.lock else usual, options
        return
    from mkroot.bundle.parcel import opened

    with opened(store, order.parcel, order.recipe, options.defines) as parcel, store.workshop("out.") as out:
        yield parcel.recipe, Path(parcel.lock), msgspec.structs.replace(options, out=out)  # it is another machine's


class _Work(msgspec.Struct, frozen=True):
    """What a step is done with. path: the recipe's. locked: where its lock stands."""

    store: Store
    identity: Identity
    path: str
    locked: Path | None
    options: build.Options
    environ: Mapping[str, str]
    log: Log

    def do(self, step: Step) -> bytes:
        """Do a step and return its result; raises MkrootError, OSError."""
        work = {
            LOCK: self._lock,
            PACKAGES: self._packages,
            STAGE: self._stage,
            IMAGE: self._image,
            INDEX: self._index,
            VERIFY: self._verify,
        }[step.kind]
        alone = step.kind == LOCK or self.options.offline
        with contextlib.nullcontext() if alone else attached(self.store, self.environ, self.log):
            return mending(self.store, self.log, lambda: work(self._recipe(), step.order))

    def _recipe(self) -> Recipe:
        return build.open_recipe(self.path, self.options)

    def _read(self) -> Lock | None:
        return lockfile.read_lock(self.locked) if self.locked is not None else None

    def _known(self) -> Lock:
        lock = self._read()
        if lock is None:
            raise LockError("the lock is gone", where=str(self.locked), hint="begin the run again")
        return lock

    def _lock(self, recipe: Recipe, order: Order) -> bytes:
        """Return the text of a new lock of one architecture, or of all; nothing is written."""
        from mkroot import locking

        if order.architecture:
            recipe = msgspec.structs.replace(recipe, arch=(order.architecture,))
        with self._alone(sha256(f"{recipe.distro} {recipe.suite} {order.architecture}".encode())):
            found = build.searched(self.store, recipe, self.options, self.environ, self.log, self._read())
        return locking.locked(recipe, found).encode()

    @contextlib.contextmanager
    def _alone(self, archive: str) -> Iterator[None]:
        """Be the first that looks at an archive, or begin when that one is done: the indices are there by then."""
        with (
            self.store.lock_if_free("locking", archive) as first,
            contextlib.nullcontext() if first else self.store.lock("locking", archive, shared=True),
        ):
            yield

    def _packages(self, recipe: Recipe, order: Order) -> bytes:
        """Get packages; what is wrong with one is for those to tell that need it, and not for the others here."""
        from mkroot import assembling
        from mkroot.origins import origin

        wanted = set(order.packages)
        root = self._known().root(order.architecture)
        place = origin(recipe, order.architecture, self.options.mirror, self.environ)
        found = tuple(p for p in (*root.packages, *root.beside) if p.sha256 in wanted)
        try:
            assembling.provide(self.store, self.identity, recipe, found, place, self.options, self.environ, self.log)
        except (MirrorError, TrustError, PackageError) as e:
            self.log.lines.append(f"left to those that need it: {e}")
        return b""

    def _stage(self, recipe: Recipe, order: Order) -> bytes:
        from mkroot import additions, assembling
        from mkroot.origins import origin
        from mkroot.rootfs.inputs import Inputs
        from mkroot.rootfs.top import scratch
        from mkroot.store.layer import LayerStore

        root = assembling.upto(self._known().root(order.architecture), order.stage)
        size = sum(p.installed_size for p in root.packages) * 1024
        with scratch(self.store, self.identity, size) as trees:
            assembling.root_of(
                LayerStore(self.store),
                self.identity,
                trees,
                recipe,
                root,
                None,
                origin(recipe, order.architecture, self.options.mirror, self.environ),
                order.architecture,
                additions.Inside(inputs=Inputs()),
                self.options,
                self.environ,
                self.log,
                unfinished=True,
            )
        return b""

    def _image(self, recipe: Recipe, order: Order) -> bytes:
        """Make the outputs; until an INDEX follows, the tags keep the images that other architectures have."""
        from mkroot.making import make, others

        siblings = others(self.store, recipe, order.architecture, self.options)
        built = make(
            self.store, self.identity, recipe, self._known(), order.architecture, self.options, self.environ,
            self.log, siblings,
        )  # fmt: skip
        return msgspec.msgpack.encode(built)

    def _index(self, recipe: Recipe, order: Order) -> bytes:
        """Have the tags of a recipe for several architectures name all of them: each of which is made by now."""
        from mkroot.making import make
        from mkroot.oci.model import Descriptor

        siblings: list[Descriptor] = []
        lock = self._known()
        for architecture in recipe.arch:
            make(self.store, self.identity, recipe, lock, architecture, self.options, self.environ, self.log, siblings)
        return b""

    def _verify(self, recipe: Recipe, order: Order) -> bytes:
        from mkroot.fleet.rebuilding import rebuild

        rebuilt = rebuild(
            self.store, self.identity, recipe, self._known(), order.architecture, order.record.decode(),
            self.options, self.environ, self.log,
        )  # fmt: skip
        return msgspec.msgpack.encode(rebuilt)
