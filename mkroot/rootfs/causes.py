"""Names the first input that made a stage be made again, from what the last build of the recipe was made of."""

from __future__ import annotations

import contextlib
import hashlib

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.rootfs.stage import FORMAT, Stage
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store
from mkroot.store.unpack import control_fields

KIND = "causes"


class Made(msgspec.Struct, frozen=True):
    """What a stage was made of. packages: `name version` by name, in order. keys: of their layers, in order."""

    format: str
    before: str
    epoch: int
    packages: dict[str, str]
    keys: tuple[str, ...]


def cause(store: Store, place: str, before: str, stage: Stage, *, made: bool) -> str:
    """Return a sentence on why a stage is made, and remember what it is made of.

    place: names the recipe and the architecture. before: the key of the root before the stage. made: whether it is to
    be made; else the store has it.
    """
    now = Made(FORMAT, before, stage.epoch, _versions(stage), tuple(p.key for p in stage.packages))
    path = store.path(KIND, hashlib.sha256(f"{place} {stage.name}".encode()).hexdigest())
    last: Made | None = None
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
        last = from_msgpack(opened(path.read_bytes()), Made)
    if last != now:
        path.unlink(missing_ok=True)
        with store.writing(KIND, path.name, sync=False) as aside:
            aside.write_bytes(sealed(msgspec.msgpack.encode(now)))
    if not made:
        return f"stage {stage.name}: taken from the store"
    return f"stage {stage.name}: made, for {_difference(last, now)}"


def _versions(stage: Stage) -> dict[str, str]:
    fields = (control_fields(p.control["control"]) for p in stage.packages)
    return {f"{f['package']}:{f['architecture']}": f["version"] for f in fields}


def _difference(last: Made | None, now: Made) -> str:
    if last is None:
        return "this store has not made it for this recipe before"
    if last.format != now.format:
        return "this mkroot configures in another way than the last one"
    if last.before != now.before:
        return "the stage before it is another one"
    for name, version in now.packages.items():
        if name not in last.packages:
            return f"package {name} {version} is new in it"
        if last.packages[name] != version:
            return f"package {name} has version {version} instead of {last.packages[name]}"
    if gone := [name for name in last.packages if name not in now.packages]:
        return f"package {gone[0]} is no more in it"
    if sorted(last.keys) != sorted(now.keys):
        return "a package of the same version has other bytes"
    if last.keys != now.keys:
        return "its packages come in another order"
    if last.epoch != now.epoch:
        return f"its date is {now.epoch} instead of {last.epoch}"
    return "the store had it no more"
