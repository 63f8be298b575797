"""Every call by which a build waits for the disk, counted: one more has to be argued for here, and in docs/trust.md."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.archives import SCRIPTED, STATIC, scripted_archive, static_archive
from tests.integration.building import needs
from tests.testarchive import Archive, Server
from tests.unit.commands import PROGRAM, Program

CALLS = "fsync,fdatasync,syncfs,sync,msync"  # sync_file_range(2), as mkroot calls it, begins and does not wait
# What is waited for, each for one reason. Whatever else stands in the store is compared with its digest, seal or
# checksum when it is read, and made again where power failed before it was on the disk.
RELEASES = {"seen": 6}  # of three suites the newest date, by address and by signer: older ones must not pass for new
LOCK = {"lock": 1}  # the user's file
IMAGE = {"blob": 3, "images": 1}  # layer, config, manifest; then the list that names them: there is no other copy
OUTPUT = {"rootfs.tar.zst": 1, "oci": 5, "manifest.json": 1, "provenance.json": 1}  # before they replace an older one


COLD = {**RELEASES, **LOCK, **IMAGE, **OUTPUT}
PLAIN: dict[str, Any] = {**STATIC, "outputs": ["tar.zst", "oci"]}


class Traced(Program):
    """Builds under strace. log: what it saw of the last one."""

    def __init__(self, folder: Path, archive: Archive, server: Server, recipe: dict[str, Any]) -> None:
        super().__init__(folder)
        self.recipe("r.yaml", archive.recipe(uri=server.uri, **recipe))
        self.log: list[str] = []

    def waits(self, *words: str) -> dict[str, int]:
        """Build, and return how often the disk was waited for, by what for."""
        log = self.folder / "strace.log"
        trace = f"trace={CALLS},rename,renameat,renameat2"
        command = ["strace", "-f", "-qq", "-y", "-s", "4096", "-o", log, "-e", trace, "-e", "signal=none"]
        done = subprocess.run(
            [*command, *PROGRAM, "build", "r.yaml", *words],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environ,
            timeout=120,
        )
        if "ptrace" in done.stderr:
            pytest.skip(f"strace may not trace here: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
        self.log = log.read_text().splitlines()
        return dict(Counter(filter(None, map(self._place, self.log))))

    def _place(self, line: str) -> str:
        found = re.match(r"\d+ +(\w+)\((?:\w+<([^>]*)>)?", line)  # where it begins; it may end on another line
        if found is None or found[1].startswith("rename"):
            return ""
        call, path = found[1], found[2] or ""
        store, out = f"{self.folder}/store/", f"{self.folder}/out/"
        if path.startswith(out):
            name = path.removeprefix(out).split("/")[2]  # .NAME.ARCH.new…/out/FILE
            return name if call == "fsync" else f"{name} by {call}"
        if path.startswith(store):
            kind, _, rest = path.removeprefix(store).partition("/")
            return {"tmp": rest.partition(".")[0], "oci": "images"}.get(kind, kind)
        if path == f"{self.folder}/.r.lock.new":
            return "lock"
        inside = path.startswith(("/etc/", "/usr/", "/var/"))  # of a sandbox, where the call is answered and not made
        return "" if inside and not path.startswith(f"{self.folder}/") else f"{call} of {path or 'everything'}"

    def last(self, pattern: str) -> int:
        """Return the number of the last line that has this."""
        return max(n for n, line in enumerate(self.log) if re.search(pattern, line))

    def forget(self, *kinds: str) -> None:
        """Remove the outputs, and kinds of entries of the store."""
        for path in (self.folder / "out", *(self.folder / "store" / kind for kind in kinds)):
            shutil.rmtree(path)


@contextmanager
def traced(folder: Path, archive: Archive, recipe: dict[str, Any]) -> Iterator[Traced]:
    needs("strace")
    with archive.serve() as server:
        yield Traced(folder, archive, server, recipe)


@pytest.mark.counts("fault")
def test_a_cold_a_copied_a_warm_and_an_unchanged_build(tmp_path: Path) -> None:
    with traced(tmp_path, static_archive(tmp_path / "archive"), PLAIN) as site:
        assert site.waits() == COLD
        swap = site.last(r'rename\w*\(.*"[^"]*\.new\w+/out"')
        assert site.last(r"\d+ +fsync\(.*\.new\w+/out/") < swap, "an output takes its place when it is on the disk"
        assert site.last(r"\d+ +fsync\(.*/blob>") < site.last(r'rename\w*\(.*/store/oci/index\.json"')
        assert site.waits() == {}, "nothing changed"
        site.forget()
        assert site.waits() == OUTPUT, "a whole build that the store knows"
        site.forget("finished")
        assert site.waits() == OUTPUT, "packages and stages that the store knows"


@pytest.mark.counts("fault")
def test_what_scripts_wait_for_is_no_disk(tmp_path: Path) -> None:
    with traced(tmp_path, scripted_archive(tmp_path / "archive"), SCRIPTED) as site:
        assert site.waits() == COLD


@pytest.mark.counts("fault")
@pytest.mark.parametrize(("files", "found"), [(40, {"rootfs": 46}), (80, {"rootfs by syncfs": 1})])
def test_a_folder_of_many_files_is_waited_for_once(tmp_path: Path, files: int, found: dict[str, int]) -> None:
    archive = Archive(tmp_path / "archive")
    archive.add("many", "1.0", files={f"usr/share/many/{n}": b"x" for n in range(files)})
    recipe = {"packages": {"variant": "none", "include": ["many"]}, "configure": "none", "outputs": ["dir"]}
    with traced(tmp_path, archive, recipe) as site:
        assert site.waits() == {**RELEASES, **LOCK, **found, "manifest.json": 1, "provenance.json": 1}
