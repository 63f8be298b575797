"""Opens a bundle for one command: its recipe in a folder of its own, its packages and images in the store.

A bundle is somebody else's file. Every byte of it is checked against its index before it is used, no name of it leads
out of its folder, and its recipe reads no file but those that came with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from mkroot.bundle.form import INDEX, INDEX_LIMIT, SUMS, Blob, Index, damaged, decode, head, sums
from mkroot.digest import oci
from mkroot.errors import ArtifactError, Faults, MkrootError, RecipeError, StoreError
from mkroot.oci.model import Descriptor
from mkroot.oci.store import ImageStore
from mkroot.recipe.compose import read_file
from mkroot.recipe.load import load
from mkroot.recipe.normal import inputs
from mkroot.resolve.lock import decode_lock
from mkroot.store.store import Store, put
from mkroot.store.use import remove
from mkroot.tar.entry import DIR, FILE, SYMLINK
from mkroot.tar.write import END, padding

DEBS = "debs"
_STEP = 1 << 20


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that is open. recipe: the path of its recipe, with the lock beside it."""

    recipe: str
    index: Index


@contextlib.contextmanager
def opened(store: Store, path: str, defines: Mapping[str, str]) -> Iterator[Opened]:
    """Yield what is in a bundle; its folder goes afterwards, packages and images stay in the store.

    defines: values of variables besides those that the bundle was made with. Raises ArtifactError where the bundle is
    damaged or of another form, RecipeError where its recipe reads what did not come with it, StoreError. Errors inside
    name the bundle in place of the folder.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="bundle.", dir=store.root / "tmp"))
    except OSError as e:
        raise StoreError(f"the store cannot be written: {e.strerror}", where=str(store.root)) from None
    try:
        try:
            index = _unpacked(store, path, folder)
            recipe = str(folder / "files" / index.recipe)
            confined(recipe, folder / "files", {**index.variables, **defines})
            yield Opened(recipe=recipe, index=index)
        except MkrootError as e:
            raise renamed(e, f"{folder}/files/", f"{path}: ") from e.__cause__
    finally:
        remove(folder)


def renamed(error: MkrootError, folder: str, shown: str) -> MkrootError:
    """Return an error that names a file by what is `shown` in place of the folder that it was unpacked to."""
    if isinstance(error, Faults):
        return Faults(renamed(one, folder, shown) for one in error.faults)
    if folder not in str(error):
        return error
    what, where, hint = (t and t.replace(folder, shown) for t in (error.what, error.where, error.hint))
    return type(error)(what or "", where=where, hint=hint)


# ---- reading


def _unpacked(store: Store, path: str, folder: Path) -> Index:
    """Unpack a bundle: files below `folder`, the rest into the store, each thing checked before it has its name."""
    try:
        with open(path, "rb") as f:
            index = read_index(f, path)
            write_files(f, index, folder / "files", path)
            _check_lock(index, folder / "files", path)
            aside = folder / "aside"
            for deb in index.debs:
                _copy(f, f"debs/{deb.sha256}.deb", deb, aside, path)
                _into_store(store, deb, aside)
            _take_images(f, store, index, aside, path)
            if f.read(len(END) + 1) != END:
                raise damaged("something else stands at its end", path)
    except OSError as e:
        where = path if e.filename in (None, path) else str(e.filename)
        raise ArtifactError(f"the bundle cannot be unpacked: {e.strerror}", where=where) from None
    return index


def read_index(f: BinaryIO, path: str) -> Index:
    """Return the index at the beginning of a bundle that is as long as it promises; raises ArtifactError."""
    start = f.read(512)
    digits = start[124:135]
    size = int(digits, 8) if len(start) == 512 and digits.isdigit() and not digits.strip(b"01234567") else -1
    if not 0 <= size <= INDEX_LIMIT or start != head(INDEX, size):
        raise damaged("its index has no header, or is too long", path)
    data = _exactly(f, size, path)
    line = sums(data)
    if f.read(len(padding(size))) != padding(size) or f.read(512 + len(line)) != head(SUMS, len(line)) + line:
        raise damaged("its index has not the digest that stands beside it", path)
    _expect(f, padding(len(line)), path)
    index = decode(data, path)
    at, there = f.tell(), f.seek(0, os.SEEK_END)
    f.seek(at)
    whole = index.size(size)
    if whole != there:
        raise damaged(f"it has {there} bytes, and its index promises {whole}", path)
    return index


def _exactly(f: BinaryIO, size: int, path: str) -> bytes:
    data = f.read(size)
    if len(data) != size:
        raise damaged("it ends too early", path)
    return data


def _expect(f: BinaryIO, data: bytes, path: str) -> None:
    if f.read(len(data)) != data:
        raise damaged("something else stands between its members than mkroot writes there", path)


def _copy(f: BinaryIO, name: str, blob: Blob, target: Path, path: str, mode: int = 0o644) -> None:
    """Copy a member's content to a new file; raises ArtifactError where it is not what the index says."""
    _expect(f, head(name, blob.size), path)
    hasher, left = hashlib.sha256(), blob.size
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(target, flags, 0o600), "wb") as out:
        while left:
            piece = _exactly(f, min(left, _STEP), path)
            hasher.update(piece)
            out.write(piece)
            left -= len(piece)
        out.flush()
        os.fchmod(out.fileno(), mode)
    if hasher.hexdigest() != blob.sha256:
        raise damaged(f"{name} has not the digest that its index names", path)
    _expect(f, padding(blob.size), path)


def write_files(f: BinaryIO, index: Index, root: Path, path: str) -> None:
    """Write the files into a new folder; links last, so that nothing is written through one."""
    root.mkdir(mode=0o755)
    for member in index.files:
        place = root / member.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == DIR:
            place.mkdir(exist_ok=True)
        elif member.kind == FILE:
            blob = Blob(sha256=member.sha256, size=member.size)
            _copy(f, f"files/{member.path}", blob, place, path, 0o755 if member.executable else 0o644)
    for member in index.files:
        if member.kind == SYMLINK:
            (root / member.path).symlink_to(member.link)


def _check_lock(index: Index, root: Path, path: str) -> None:
    """See that the packages are those of the lock, and its parent images those that came along."""
    lock = decode_lock((root / index.lock).read_bytes(), f"{path}: {index.lock}")
    for architecture in index.architectures:
        lock.root(architecture)
    roots = [lock.root(a) for a in index.architectures]
    wanted = {p.sha256: p for root_ in roots for p in (*root_.packages, *root_.beside) if p.origin}
    held = {deb.sha256: deb.size for deb in index.debs}
    for digest, p in sorted(wanted.items()):
        if held.get(digest) != p.size:
            raise damaged(f"it lacks the package {p.name} {p.version} {p.architecture}", path)
    if more := held.keys() - wanted.keys():
        raise damaged(f"it holds a package that its lock does not name, sha256:{min(more)}", path)
    parents = {root_.parent for root_ in roots if root_.parent is not msgspec.UNSET}
    if parents != {oci(image.sha256) for image in index.images}:
        raise damaged("its parent images are not those of its lock", path)


def _into_store(store: Store, deb: Blob, aside: Path) -> None:
    """Give a package its place in the store; one that is there already stays, if it is whole."""
    from mkroot.digest import sha256_file

    final = store.path(DEBS, deb.sha256)
    if final.exists() and (final.stat().st_size != deb.size or sha256_file(final) != deb.sha256):
        final.unlink()
    if final.exists():
        aside.unlink()
    else:
        put(aside, final)


def _take_images(f: BinaryIO, store: Store, index: Index, aside: Path, path: str) -> None:
    if not index.blobs:
        return
    images = ImageStore(store)
    layout = images.layout()
    with images.using():
        for blob in index.blobs:
            _copy(f, f"blobs/sha256/{blob.sha256}", blob, aside, path)
            descriptor = Descriptor(media_type="", digest=oci(blob.sha256), size=blob.size)
            if layout.has(descriptor):
                aside.unlink()
            else:
                images.adopt(aside, descriptor)
        for image in index.images:
            images.keep(Descriptor(media_type=image.media_type, digest=oci(image.sha256), size=image.size))


# ---- the recipe


def confined(recipe: str, root: Path, defines: Mapping[str, str]) -> None:
    """See that the recipe reads no file outside of the folder, and none through a link; raises Faults, RecipeError."""
    base = os.path.realpath(root)

    def reader(name: str) -> bytes:
        _inside(name, base)
        return read_file(name)

    for local in inputs(load(recipe, defines, files=False, reader=reader)):
        _inside(local.path, base)


def _inside(name: str, base: str) -> None:
    """Raise RecipeError for a path that leads out of the folder `base`, or through a link."""
    plain = os.path.normpath(os.path.join(base, os.path.relpath(name, os.curdir) if not os.path.isabs(name) else name))
    if os.path.realpath(name) != plain or os.path.commonpath((plain, base)) != base:
        raise RecipeError(
            f"the bundle's recipe reads `{name}`, which did not come with it",
            hint="a bundle is made by `mkroot bundle`, and takes what it needs along",
        )
