"""A parcel: a bundle without packages and images, for a machine that fetches these itself."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

import mkroot
from mkroot.bundle.form import Index, damaged
from mkroot.bundle.pack import files_of, pieces
from mkroot.bundle.unpack import confined, read_index, renamed, write_files
from mkroot.digest import sha256
from mkroot.errors import MkrootError
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import Lock
from mkroot.store.store import Store
from mkroot.store.use import remove
from mkroot.tar.write import END

EMPTY = Lock(recipe=sha256(b""), sources=(), architectures={})  # stands where there is no lock yet


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """A parcel that is open. recipe, lock: their paths."""

    recipe: str
    lock: str


def parcel(path: str, recipe: Recipe, lock: Lock | None, defines: Mapping[str, str]) -> bytes:
    """Return a recipe with all files that it reads, and a lock; the same ones give the same bytes.

    path: the recipe's. defines: values of its variables. Raises ArtifactError where a file cannot be read, or names
    what only this machine has.
    """
    place, files, sources = files_of(path, recipe, lock or EMPTY, defines)
    index = Index(
        mkroot=mkroot.__version__,
        recipe=place,
        variables=dict(sorted(defines.items())),
        architectures=tuple(map(str, recipe.arch)),
        mirror="",
        security="",
        files=files,
        debs=(),
        images=(),
        blobs=(),
    )
    return b"".join(pieces(index, index.encode(), sources))


@contextlib.contextmanager
def opened(store: Store, data: bytes, shown: str, defines: Mapping[str, str]) -> Iterator[Parcel]:
    """Yield what is in a parcel, in a folder that goes afterwards.

    shown: what the recipe is called where it comes from, and in errors. Raises ArtifactError where the parcel is
    damaged, RecipeError where its recipe reads what did not come with it, StoreError.
    """
    folder = store.folder("parcel.")
    try:
        file = io.BytesIO(data)
        index = read_index(file, shown)
        files = folder / "files"
        try:
            write_files(file, index, files, shown)
            if file.read(len(END) + 1) != END:
                raise damaged("something else stands at its end", shown)
            recipe = str(files / index.recipe)
            confined(recipe, files, defines)
            yield Parcel(recipe=recipe, lock=str(files / index.lock))
        except MkrootError as e:
            base = os.path.dirname(shown)
            prefix = f"{Path(files / index.recipe).parent}/"
            raise renamed(e, prefix, f"{base}/" if base else "") from e.__cause__
    finally:
        remove(folder)
