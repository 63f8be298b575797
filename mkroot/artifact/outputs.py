"""Makes artifacts of a finished root: one folder, each kind by its own maker, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from mkroot.artifact.files import HashedFile, copy_file, settle
from mkroot.artifact.folder import output_folder, remove, target_folder
from mkroot.artifact.kept import kept_file
from mkroot.artifact.manifest import FILE_NAME, Facts, Made, Manifest, encode, make_manifest
from mkroot.artifact.provenance import FILE_NAME as RECORD_NAME
from mkroot.artifact.provenance import Provenance, encode_statement
from mkroot.artifact.tools import HostTools, Tools
from mkroot.errors import ArtifactError
from mkroot.progress import Progress
from mkroot.rootfs.assembly import Assembly, Group
from mkroot.rootfs.joined import Blob
from mkroot.tar.entry import Entry


class Bench:
    """What the makers of one build share: the root, the folder they fill, and what is already made.

    folder: the artifacts go here. scratch: on the same file system, removed at the end; `shared` is for what several
    makers need. written: the tar streams in the folder, by name. Everything made is the same bytes whoever makes it.
    """

    def __init__(self, assembly: Assembly, facts: Facts, folder: Path, tools: Tools, progress: Progress) -> None:
        self.assembly = assembly
        self.facts = facts
        self.folder = folder
        self.scratch = folder.parent / "scratch"
        self.tools = tools
        self.progress = progress
        self.shared: dict[str, object] = {}
        self.written: dict[str, Blob] = {}
        self._streams: dict[tuple[object, ...], tuple[Path, Blob]] = {}
        self._entries: list[Entry] | None = None
        self._tree = ""

    @property
    def epoch(self) -> int:
        """The latest time in any artifact, seconds since 1970."""
        return self.assembly.epoch

    def entries(self) -> list[Entry]:
        """Return every path of the root; see Assembly.entries."""
        if self._entries is None:
            self._entries = self.assembly.entries()
        return self._entries

    def tree(self) -> str:
        """Return the tree's digest, from which identities such as UUIDs are derived."""
        self._tree = self._tree or tree_digest(self.entries())
        return self._tree

    def stream(self, path: Path, codec: str, group: Group | None = None, *, single_stream: bool = False) -> Blob:
        """Write a tar stream of the root or of a group to a new file; one that was written before is copied."""
        whole = group is None or self.assembly.whole(group)
        key = (codec, None if whole else (group and group.layers), single_stream and codec != "none")
        if key in self._streams:
            source, blob = self._streams[key]
            copy_file(source, path)
            return self._noted(path, blob)
        with open(path, "xb", buffering=0) as out:
            os.fchmod(out.fileno(), 0o644)
            blob = self.assembly.write(out, codec, None if whole else group, single_stream=single_stream)
        self._streams[key] = (path, blob)
        return self._noted(path, blob)

    def _noted(self, path: Path, blob: Blob) -> Blob:
        if path.parent == self.folder:
            self.written[path.name] = blob
        return blob

    def kept(self, parts: Sequence[object], path: Path, make: Callable[[], None]) -> None:
        """Have a file of the root made, or taken from the store; see kept_file.

        The tree and the epoch are parts already, and so are the layers: they give the order of a stream's members.
        """
        layers = [layer.key for layer in self.assembly.tree.layers]
        kept_file(self.assembly.layers.store, [self.tree(), self.epoch, layers, *parts], path, make)

    def moved(self, old: Path, new: Path) -> None:
        """Rename a stream's file; later copies are taken from its new place."""
        os.rename(old, new)
        for key, (path, blob) in self._streams.items():
            if path == old:
                self._streams[key] = (new, blob)


Maker = Callable[[Bench], Made | tuple[Made, ...]]
"""Makes an artifact, or several that belong together, in the bench's folder; raises MkrootError or OSError."""


class Outputs(Struct, frozen=True, kw_only=True):
    """What was written: the folder, its artifacts in the order they were asked for, manifest, the record's bytes.

    streams: the root's tar streams that are files of the folder, by name.
    """

    folder: Path
    artifacts: tuple[Made, ...]
    manifest: Manifest
    provenance: bytes = b""
    streams: Mapping[str, Blob] = {}


def tree_digest(entries: Sequence[Entry]) -> str:
    """Return `sha256:…` over what a tree says of its members: names, kinds, modes, owners, times, contents."""
    lines = ["mkroot tree 1"]
    for e in entries:
        attributes = ",".join(f"{k}={e.xattrs[k].hex()}" for k in sorted(e.xattrs)) if e.xattrs else ""
        lines.append(
            f"{e.kind} {e.mode:o} {e.uid}:{e.gid} {e.mtime} {e.size} {e.device[0]}:{e.device[1]} "
            f"{e.sha256} {attributes}\0{e.path}\0{e.link}"
        )
    return "sha256:" + hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _settled(path: Path, progress: Progress) -> None:
    with progress.timed("sync", path.name, "disk"):
        settle(path)


def write_outputs(
    assembly: Assembly,
    facts: Facts,
    out: Path,
    kinds: Sequence[str],
    makers: Mapping[str, Maker],
    *,
    provenance: Provenance | None = None,
    tools: Tools | None = None,
    progress: Progress | None = None,
    before_swap: Sequence[Callable[[Bench], None]] = (),
) -> Outputs:
    """Make the artifacts `kinds` in `out/NAME/ARCH`, with a `manifest.json`.

    makers: by kind; see mkroot.artifact.kinds and mkroot.oci.outputs. before_swap: what must also succeed before the
    folder takes its place. provenance: the record that is written beside the artifacts, `provenance.json`; None writes
    none. An earlier output is replaced as a whole. Raises ArtifactError (the folder cannot be
    written, a tool is missing or fails) and StoreError; then nothing is left and the earlier output still stands.
    """
    progress = progress or Progress()
    kinds = tuple(dict.fromkeys(kinds))
    for kind in kinds:
        if kind not in makers:
            raise ArtifactError(f"outputs of kind `{kind}` are not built yet")
    with (
        output_folder(out, facts.name, facts.architecture) as folder,
        ThreadPoolExecutor(1) as settling,  # each file goes to the disk while the next is made
    ):
        bench = Bench(assembly, facts, folder, tools or HostTools(), progress)
        bench.scratch.mkdir()
        made: list[Made] = []
        settled = []
        for kind in kinds:
            with progress.step(f"write {kind}") as step:
                result = makers[kind](bench)
                new = (result,) if isinstance(result, Made) else result
                step.result = ", ".join(m.name for m in new)
            made += new
            settled += [settling.submit(_settled, folder / m.name, progress) for m in new]
        for action in before_swap:
            action(bench)
        remove(bench.scratch)
        entries = bench.entries()
        manifest = make_manifest(
            facts, bench.epoch, bench.tree(), len(entries), sum(e.size for e in entries), tuple(made)
        )
        with HashedFile(folder / FILE_NAME) as f:
            f.write(encode(manifest))
        settled.append(settling.submit(_settled, folder / FILE_NAME, progress))
        record = b""
        if provenance is not None:
            record = encode_statement(provenance.statement(made, f.digest.removeprefix("sha256:")))
            with HashedFile(folder / RECORD_NAME) as f:
                f.write(record)
            settled.append(settling.submit(_settled, folder / RECORD_NAME, progress))
        with progress.timed("settle", "outputs"):
            for one in settled:
                one.result()
    target = target_folder(out, facts.name, facts.architecture)
    return Outputs(folder=target, artifacts=tuple(made), manifest=manifest, provenance=record, streams=bench.written)
