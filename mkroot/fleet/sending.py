"""Makes a step fit for another machine: its recipe as a parcel, its values such that the place makes no difference."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mkroot import lockfile
from mkroot.build import Options, open_recipe
from mkroot.bundle.parcel import parcel
from mkroot.digest import sha256
from mkroot.errors import ClusterError, MirrorError
from mkroot.fleet.model import Step
from mkroot.fleet.perform import decode_options, encode_options
from mkroot.origins import origin
from mkroot.recipe.model import Recipe

_LEVEL = 6  # of deflate: a lock shrinks to a fifth, and the scheduler keeps it as long as a step may need it


class Sent(msgspec.Struct, frozen=True):
    """A step as it travels. data: its msgpack, without the parcel. name: the parcel's. parcel: deflated (RFC 1950)."""

    data: bytes
    name: str
    parcel: bytes


class Sending:
    """Makes parcels, one for all steps of a recipe and its lock. environ: of this machine, which knows the mirrors."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._parcels: dict[tuple[object, ...], tuple[Recipe, str, bytes]] = {}
        self._options: dict[tuple[object, ...], bytes] = {}
        self._made: dict[bytes, tuple[str, bytes]] = {}  # of orders that have their parcel

    def sent(self, step: Step) -> Sent:
        """Return a step as it travels; raises MkrootError, OSError where its recipe or a file of it cannot be read."""
        order = step.order
        if order.parcel:
            name, packed = self._packed(order.parcel)
            options = order.options
        else:
            name, packed, options = self._of(step)
        bare = msgspec.structs.replace(order, parcel=b"", lock="", options=options)
        return Sent(msgspec.msgpack.encode(msgspec.structs.replace(step, order=bare, after=())), name, packed)

    def _packed(self, data: bytes) -> tuple[str, bytes]:
        if data not in self._made:
            self._made[data] = (sha256(data)[:32], zlib.compress(data, _LEVEL))
        return self._made[data]

    def _of(self, step: Step) -> tuple[str, bytes, bytes]:
        """Return the name of a step's parcel, the parcel, and the options that it travels with."""
        order = step.order
        place = (order.recipe, order.lock, order.options)
        options = decode_options(order.options)
        if options.offline:
            raise ClusterError(
                "an offline build is this machine's alone: others have not what its store has",
                hint="leave out `--dask`, or `--offline`; a bundle is always built offline",
            )
        usual = None if options.lock == "none" else lockfile.lock_path(order.recipe, options.defines)
        path = Path(order.lock) if order.lock else usual
        key = (*place, _state(path))
        if key not in self._parcels:
            recipe = open_recipe(order.recipe, options)
            lock = None if path is None else lockfile.read_lock(path)
            data = parcel(order.recipe, recipe, lock, options.defines)
            self._parcels = {k: v for k, v in self._parcels.items() if k[:3] != place}
            self._parcels[key] = (recipe, sha256(data)[:32], zlib.compress(data, _LEVEL))
        recipe, name, packed = self._parcels[key]
        named = (order.options, order.recipe, order.architecture)
        if named not in self._options:
            self._options[named] = encode_options(self._placed(recipe, order.architecture, options))
        return name, packed, self._options[named]

    def _placed(self, recipe: Recipe, architecture: str, options: Options) -> Options:
        """Return options by which apt in the image is given this machine's mirror, wherever the image is made."""
        if options.written is not None or not architecture:
            return options
        try:
            found = origin(recipe, architecture, options.mirror, self._environ).mirror
        except MirrorError:
            return options  # this machine knows none: the other one's is taken
        security = found.security.url if found.security is not None else ""
        return msgspec.structs.replace(options, written=(found.archive.url, security))


def _state(path: Path | None) -> tuple[int, ...]:
    """Return what tells a file from the same one with other content; () of none."""
    if path is None:
        return ()
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
