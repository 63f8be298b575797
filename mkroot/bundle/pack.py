"""Writes a bundle: everything that a build of a recipe needs, in one file."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

import mkroot
from mkroot import additions, assembling, lockfile, packages, parents
from mkroot.build import open_recipe, placed, settled
from mkroot.bundle.form import FILES_LIMIT, INDEX, SUFFIX, SUMS, Blob, Held, Index, Member, head, path_fault, sums
from mkroot.digest import oci, sha256
from mkroot.errors import ArtifactError, MkrootError, UsageError, masked
from mkroot.oci.store import ImageStore
from mkroot.origins import origin
from mkroot.progress import Progress
from mkroot.recipe.compose import Composition
from mkroot.recipe.model import Recipe
from mkroot.recipe.normal import inputs
from mkroot.resolve.lock import Lock
from mkroot.store.store import Store, default_root
from mkroot.tar.entry import DIR, FILE, SYMLINK
from mkroot.tar.write import END, padding

if TYPE_CHECKING:
    from mkroot.build import Options

_STEP = 1 << 20


class Out(Protocol):
    """What a bundle is written to."""

    def write(self, data: bytes) -> int:
        """Take all of `data`; raises OSError."""
        ...


Sources = dict[str, Path | bytes]
"""By the name in the archive, where its content comes from."""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle will hold. name: the recipe's."""

    name: str
    index: Index
    sources: Sources

    @property
    def file_name(self) -> str:
        """What a bundle is called unless somebody says otherwise."""
        return self.name.replace("/", "-") + SUFFIX

    def write(self, out: Out, progress: Progress) -> tuple[int, str]:
        """Write the bundle; return its size in bytes and its digest, `sha256:…`. Raises ArtifactError, OSError."""
        data = self.index.encode()
        size, hasher = self.index.size(len(data)), hashlib.sha256()
        with progress.step("bundle", size, "B") as step:
            for piece in pieces(self.index, data, self.sources):
                out.write(piece)
                hasher.update(piece)
                step.advance(len(piece))
            step.result = f"{len(self.index.debs)} packages"
        return size, oci(hasher.hexdigest())


def gather(recipe: str, options: Options, environ: Mapping[str, str], progress: Progress) -> Bundle:
    """Return the bundle of a recipe, with every package in the store; raises MkrootError.

    The lock beside the recipe is used, or made where there is none. The same recipe, lock and files give the same
    bytes. Packages that the store has not are fetched.
    """
    if recipe == "-":
        raise UsageError("a recipe from standard input cannot be bundled", hint="write it to a file")
    wanted = open_recipe(recipe, options)
    try:
        store = Store(default_root(environ))
        lock = settled(store, wanted, recipe, options, environ, progress)
        index, sources = _gathered(store, recipe, wanted, lock, options, environ, progress)
    except MkrootError as e:
        raise placed(e, recipe, options) from e.__cause__
    return Bundle(name=str(wanted.name), index=index, sources=sources)


def _gathered(
    store: Store,
    shown: str,
    recipe: Recipe,
    lock: Lock,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
) -> tuple[Index, Sources]:
    place, files, sources = files_of(shown, recipe, lock, options.defines)
    debs: dict[str, int] = {}
    images: dict[str, Held] = {}
    blobs: dict[str, int] = {}
    written = ("", "")
    for architecture in recipe.arch:
        locked = lock.root(architecture)
        where = origin(recipe, architecture, options.mirror, environ)
        if locked.parent is not msgspec.UNSET or any(p.name == "apt" for p in locked.packages):
            mirror, security = additions.apt_mirror(recipe, where) if recipe.apt.mirror == "used" else ("", None)
            written = (mirror, security or "")
        where = assembling.at_snapshot(store, recipe, where, options, environ, progress)
        items = assembling.wanted_items(store, recipe, (*locked.packages, *locked.beside), where)
        paths = packages.files(store, items, environ, options.offline, progress)
        for item, path in zip(items, paths, strict=True):
            if item.address is not None:  # a local one is among the files
                debs[item.sha256] = item.size
                sources[f"debs/{item.sha256}.deb"] = path
        if locked.parent is not msgspec.UNSET:
            image = parents.pinned(store, recipe, architecture, locked.parent)
            d = image.descriptor
            images[d.hex] = Held(media_type=d.media_type, sha256=d.hex, size=d.size)
            for one in (d, image.manifest.config, *image.manifest.layers):
                blobs[one.hex] = one.size
                sources[f"blobs/sha256/{one.hex}"] = ImageStore(store).layout().path(one.digest)
    index = Index(
        mkroot=mkroot.__version__,
        recipe=place,
        variables=dict(sorted(options.defines.items())),
        architectures=tuple(map(str, recipe.arch)),
        mirror=written[0],
        security=written[1],
        files=files,
        debs=tuple(Blob(sha256=s, size=debs[s]) for s in sorted(debs)),
        images=tuple(images[s] for s in sorted(images)),
        blobs=tuple(Blob(sha256=s, size=blobs[s]) for s in sorted(blobs)),
    )
    return index, sources


# ---- the recipe's own files


def files_of(
    shown: str, recipe: Recipe, lock: Lock, defines: Mapping[str, str]
) -> tuple[str, tuple[Member, ...], Sources]:
    """Return the recipe's place among the files, the files, and where their contents come from."""
    base = os.path.dirname(shown)
    parts = {os.path.relpath(path, base or "."): path for path in Composition(shown, defines).files}
    local = {one.relative: one.path for one in inputs(recipe)}
    for relative in (*parts, *local):
        if os.path.isabs(relative):
            raise ArtifactError(
                f"the recipe names `{relative}` by its place on this machine, and a bundle is for any machine",
                where=shown,
                hint="name it relative to the recipe",
            )
    folder = _folder((*parts, *local))
    found: dict[str, tuple[Member, Path | bytes]] = {}

    def add(member: Member, content: Path | bytes) -> None:
        if fault := path_fault(member.path):
            raise ArtifactError(f"{member.path!r} {fault}", where=shown)
        if found.setdefault(member.path, (member, content))[0] != member:
            raise ArtifactError(f"{member.path!r} is reached in two ways, and they differ", where=shown)

    def place(relative: str) -> str:
        return os.path.normpath(os.path.join(folder, relative))

    for relative, path in parts.items():
        member, content = _file(place(relative), path, executable=False)
        if masked(text := content.decode("utf-8", "replace")) != text:
            raise ArtifactError(
                "an address in the recipe has a user and a password, and a bundle is for any machine",
                where=path,
                hint="name them in apt's `auth.conf` instead, or the mirror with `--mirror`",
            )
        add(member, content)
    for relative, path in local.items():
        for member, content in _tree(place(relative), path):
            add(member, content)
    at = place(os.path.basename(shown))
    data = lock.encode()
    locked = lockfile.lock_path(at)
    assert locked is not None
    add(Member(path=str(locked), size=len(data), sha256=sha256(data)), data)
    members = tuple(found[path][0] for path in sorted(found))
    if sum(m.size for m in members) > FILES_LIMIT:
        raise ArtifactError(f"the recipe's files take more than {FILES_LIMIT >> 20} MiB", where=shown)
    return at, members, {f"files/{m.path}": found[m.path][1] for m in members if m.kind == FILE}


def _folder(relatives: Iterable[str]) -> str:
    """Return where the recipe's folder stands, deep enough for every `..`, under a name that says nothing of here."""
    split = [path.split("/") for path in relatives]
    depth = max(sum(part == ".." for part in parts) for parts in split)
    taken = {next(part for part in parts if part != "..") for parts in split if parts[0] == ".."}
    name = "recipe"
    while name in taken:
        name += "_"
    return "/".join([name] * depth)


def _file(name: str, path: str, *, executable: bool) -> tuple[Member, bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as f:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ArtifactError("neither a file, a folder nor a link", where=path)
            data = f.read(FILES_LIMIT + 1)
    except OSError as e:
        raise ArtifactError(f"a file of the recipe cannot be read: {e.strerror}", where=path) from None
    return Member(path=name, executable=executable, size=len(data), sha256=sha256(data)), data


def _tree(name: str, path: str) -> Iterator[tuple[Member, bytes]]:
    """Yield a local file or folder with all that is in it; a link at its top is followed, as a build does."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode):
            yield _file(name, path, executable=bool(mode & 0o100))
            return
        yield Member(path=name, kind=DIR), b""
        for below in sorted(os.listdir(path)):
            inner, place = os.path.join(path, below), f"{name}/{below}"
            mode = os.lstat(inner).st_mode
            if stat.S_ISLNK(mode):
                yield Member(path=place, kind=SYMLINK, link=os.readlink(inner)), b""
            else:
                yield from _tree(place, inner)
    except OSError as e:
        raise ArtifactError(f"a file of the recipe cannot be read: {e.strerror}", where=path) from None


# ---- writing


def pieces(index: Index, data: bytes, sources: Sources) -> Iterator[bytes]:
    """Yield a bundle's bytes. data: the index's own; raises ArtifactError, OSError."""
    for name, text in ((INDEX, data), (SUMS, sums(data))):
        yield head(name, len(text)) + text + padding(len(text))
    for name, blob in index.contents():
        yield head(name, blob.size)
        source = sources[name]
        if isinstance(source, bytes):
            yield source
        else:
            yield from _content(source, blob)
        yield padding(blob.size)
    yield END


def _content(path: Path, blob: Blob) -> Iterator[bytes]:
    """Yield a file of the store; raises ArtifactError where it is not what its name says."""
    hasher, done = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as f:
        while piece := f.read(_STEP):
            hasher.update(piece)
            done += len(piece)
            yield piece
    if (done, hasher.hexdigest()) != (blob.size, blob.sha256):
        raise ArtifactError("a damaged store entry", where=str(path), hint="`mkroot cache verify` mends the store")
