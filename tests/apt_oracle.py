"""The judges of resolution: the host's `apt-get install -s` in an empty root, and dose-debcheck.

By hand: `python -m tests.apt_oracle [COUNT] [SEED] [RELEASE…]` compares COUNT random requests (500) and tells of each
difference.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mkroot.archive.index import ArchiveUniverse
from mkroot.debian.release import Index, parse_release
from mkroot.errors import MkrootError
from mkroot.resolve.request import BARE, VARIANT_PACKAGES, VARIANTS, Request
from mkroot.resolve.resolution import Resolution
from mkroot.resolve.resolver import resolve
from mkroot.resolve.universe import Universe
from mkroot.store.store import Store

TOOLS = ("apt-get", "dose-debcheck")
RELEASES: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "bookworm": (
        ("debian", "bookworm", ("main",)),
        ("debian", "bookworm-updates", ("main",)),
        ("debian-security", "bookworm-security", ("main",)),
    ),
    "trixie": (
        ("debian", "trixie", ("main",)),
        ("debian", "trixie-updates", ("main",)),
        ("debian-security", "trixie-security", ("main",)),
    ),
    "noble": (
        ("ubuntu", "noble", ("main", "universe")),
        ("ubuntu", "noble-updates", ("main", "universe")),
        ("ubuntu", "noble-security", ("main", "universe")),
    ),
}
_TEMPLATES = Path("/usr/share/python-apt/templates")


def missing() -> str | None:
    """Return what keeps the judges from working, None where all is there."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None if _TEMPLATES.is_dir() else "python-apt-common, which knows the mirrors, is not installed"


# --- indices


def mirror(archive: str) -> str:
    """Return the address of an archive as the distribution's own data has it."""
    name, field = ("Ubuntu", "BaseURI-amd64") if archive == "ubuntu" else ("Debian", "BaseURI")
    text = (_TEMPLATES / f"{name}.info").read_text()
    found = re.search(rf"^{field}: \S+://(\S+/{name.lower()})/?$", text, re.MULTILINE)
    assert found is not None
    return f"http://{found[1]}".replace("/debian", f"/{archive}")


def fetch(release: str, cache: Path) -> list[Index]:
    """Return a release's indices, downloaded into `cache` where they are not there; raises OSError."""
    found = []
    for archive, suite, components in RELEASES[release]:
        base = f"{mirror(archive)}/dists/{suite}"
        text = _get(f"{base}/Release", cache / f"{suite}_Release").decode()
        head = parse_release(text, suite)
        for component in components:
            path = cache / f"{suite}_{component}_Packages"
            if not path.exists():
                data = lzma.decompress(_get(f"{base}/{component}/binary-amd64/Packages.xz", None))
                aside = path.with_suffix(f".{os.getpid()}")
                aside.write_bytes(data)
                aside.rename(path)
            with path.open("rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
            found.append(
                Index(
                    source=archive,
                    suite=suite,
                    codename=head.codename,
                    release_suite=head.suite,
                    component=component,
                    architecture="amd64",
                    origin=head.origin,
                    label=head.label,
                    version=head.version,
                    date=head.date,
                    path=path,
                    sha256=digest,
                    not_automatic=head.not_automatic,
                    but_automatic_upgrades=head.but_automatic_upgrades,
                )
            )
    return found


def _get(url: str, path: Path | None) -> bytes:
    if path is not None and path.exists():
        return path.read_bytes()
    with urllib.request.urlopen(url, timeout=60) as answer:
        data: bytes = answer.read()
    if path is not None:
        path.write_bytes(data)
    return data


# --- apt


@dataclass(frozen=True, slots=True)
class Answer:
    """What apt says: installed packages by `name` or `name:arch`, or a refusal."""

    refused: bool
    packages: dict[str, str]
    output: str


class Apt:
    """apt-get over given indices in an empty root of its own."""

    def __init__(self, root: Path, indices: Sequence[Index], architectures: Sequence[str] = ("amd64",)) -> None:
        self._root = root
        self._native = architectures[0]
        for folder in (
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/parts",
            "lists/partial",
            "cache/archives/partial",
            "state",
        ):
            (root / folder).mkdir(parents=True)
        (root / "state/status").touch()
        lines = [
            self._suite(suite, [i for i in indices if i.suite == suite], architectures)
            for suite in dict.fromkeys(i.suite for i in indices)
        ]
        (root / "sources.list").write_text("".join(lines))
        known = " ".join(f'"{a}";' for a in architectures)
        self._environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf"), "LC_ALL": "C"}
        (root / "apt.conf").write_text(
            f'Dir::State "{root}/state"; Dir::State::lists "{root}/lists"; Dir::State::status "{root}/state/status";\n'
            f'Dir::Cache "{root}/cache"; Dir::Etc "{root}/etc"; Dir::Etc::sourcelist "{root}/sources.list";\n'
            f'Dir::Etc::sourceparts "{root}/etc/parts"; Dir::Log "{root}/log"; APT::Architecture "{self._native}";\n'
            f"APT::Architectures {{ {known} }};\n"
            'Acquire::Languages "none"; Acquire::Check-Date "false"; pkgCacheGen::ForceEssential ",";\n'
            'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";\n'
            'APT::Sandbox::User "root";\n'
        )
        self._run("update", "-q")

    def _suite(self, suite: str, indices: Sequence[Index], architectures: Sequence[str]) -> str:
        base = self._root / "repo" / suite / "dists" / suite
        rows, first = [], indices[0]
        for index in indices:
            folder = base / index.component / f"binary-{index.architecture}"
            folder.mkdir(parents=True)
            (folder / "Packages").symlink_to(index.path.absolute())
            size = index.path.stat().st_size
            rows.append(f" {index.sha256} {size} {index.component}/binary-{index.architecture}/Packages\n")
        components = list(dict.fromkeys(i.component for i in indices))
        (base / "Release").write_text(
            f"Origin: {first.origin or 'x'}\nLabel: {first.label or 'x'}\nSuite: {first.release_suite or suite}\n"
            f"Codename: {first.codename}\nVersion: {first.version or '1'}\nDate: Sat, 01 Jan 2022 00:00:00 UTC\n"
            + ("NotAutomatic: yes\n" if first.not_automatic else "")
            + ("ButAutomaticUpgrades: yes\n" if first.but_automatic_upgrades else "")
            + f"Architectures: {' '.join(architectures)}\nComponents: {' '.join(components)}\nSHA256:\n"
            + "".join(rows)
        )
        return f"deb [trusted=yes] file:{self._root}/repo/{suite} {suite} {' '.join(components)}\n"

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["apt-get", *arguments], env=self._environment, capture_output=True, text=True, check=False, timeout=120
        )

    def install(self, request: Request) -> Answer:
        """Ask for the same root."""
        options = [f"-oAPT::Install-Recommends={'true' if request.recommends else 'false'}"]
        if request.pins:
            preferences = self._root / "preferences"
            preferences.write_text("\n".join(_preference(pin) for pin in request.pins))
            options.append(f"-oDir::Etc::preferences={preferences}")
        done = self._run("install", "-s", "-y", "-q", *options, *_arguments(request))
        packages = {}
        for line in done.stdout.splitlines():
            if match := re.match(r"Inst (\S+) \((\S+) ", line):
                packages[match[1].removesuffix(f":{self._native}")] = match[2]
        return Answer(done.returncode != 0, {} if done.returncode else packages, done.stdout + done.stderr)


def _preference(pin: object) -> str:
    package, suite = getattr(pin, "package"), getattr(pin, "suite")  # noqa: B009
    version, priority = getattr(pin, "version"), getattr(pin, "priority")  # noqa: B009
    # A pin of mkroot may ask for nothing but the package; apt's needs a condition, so one that always holds.
    condition = f"version {version}" if version else f"release n={suite}" if suite else "version *"
    return f"Package: {package}\nPin: {condition}\nPin-Priority: {priority}\n"


def _arguments(request: Request) -> Iterator[str]:
    suite = f"?or(?archive(^{request.suite}$),?codename(^{request.suite}$))," if request.suite else ""
    inside = f"{suite}?architecture({request.architecture})"
    if request.variant not in BARE:
        yield f"?narrow({inside},?essential)"
    if priorities := VARIANTS[request.variant]:
        either = ",".join(f"?priority({p})" for p in priorities)
        yield f"?narrow({inside},?and(?or({either}),?not(?essential)))"
    yield from VARIANT_PACKAGES.get(request.variant, ())
    yield from request.include
    yield from (f"{name}-" for name in request.exclude)


# --- dose


def referee(resolution: Resolution, folder: Path) -> str | None:
    """Return what dose-debcheck has against an answer, None where nothing.

    It sees only the packages of the answer and one more that depends on each of them in its version.
    """
    native = resolution.request.architecture
    depends = []
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".packages") as f:
        for one in resolution.packages:
            fields = {k: v for k, v in one.package.fields.items() if k not in ("description", "tag")}
            f.write("".join(f"{k.title()}: {v}\n" for k, v in fields.items()) + "\n")
            foreign = f":{one.architecture}" if one.architecture not in (native, "all") else ""
            depends.append(f"{one.name}{foreign} (= {one.version})")
        f.write(f"Package: the-whole-root\nVersion: 1\nArchitecture: {native}\nDepends: {', '.join(depends)}\n")
        f.flush()
        command = ["dose-debcheck", f"--deb-native-arch={native}", "--deb-ignore-essential", "-e", "-f"]
        if resolution.request.foreign:
            command.append(f"--deb-foreign-archs={','.join(resolution.request.foreign)}")
        done = subprocess.run([*command, f.name], capture_output=True, text=True, check=False, timeout=120)
    return None if done.returncode == 0 else done.stdout[-3000:] + done.stderr[-500:]


# --- random requests


def sample(universe: Universe, names: Sequence[str], release: str, seed: int) -> Request:
    """Return a random request: one to four packages, any variant, some with a version or a suite."""
    rng = random.Random(f"{release} {seed}")
    include = []
    for name in rng.sample(list(names), rng.randint(1, 4)):
        package = rng.choice(universe.packages(name))
        dice = rng.random()
        assert package.origin is not None
        if dice < 0.15:
            include.append(f"{name}={package.version}")
        elif dice < 0.25:
            include.append(f"{name}/{package.origin.suite}")
        else:
            include.append(name)
    return Request(
        architecture="amd64",
        suite=release,
        variant=rng.choice(("none", "essential", "apt", "required", "minbase", "buildd", "important", "standard")),
        include=tuple(include),
        recommends=rng.random() < 0.5,
        prefer=(),
    )


@dataclass(slots=True)
class Tally:
    """What a comparison found."""

    equal: int = 0
    refused: int = 0  # of the equal ones: both refuse
    found: int = 0  # apt refuses, an answer exists and the referee has nothing against it
    different: list[str] = None  # type: ignore[assignment]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.different = []


def compare(release: str, seeds: Sequence[int], cache: Path, work: Path) -> Tally:
    """Compare random requests with both judges."""
    indices = fetch(release, cache)
    universe = ArchiveUniverse(Store(cache / "store"), indices)
    names = list(universe.names())
    apt = Apt(work / release, indices)
    requests = [sample(universe, names, release, seed) for seed in seeds]
    tally = Tally()
    with ThreadPoolExecutor(2) as pool:
        for seed, request, theirs in zip(seeds, requests, pool.map(apt.install, requests), strict=True):
            _judge(f"{release} {seed}", universe, request, theirs, tally, work)
    return tally


def _judge(name: str, universe: Universe, request: Request, theirs: Answer, tally: Tally, work: Path) -> None:
    asked = f"{name}: {request.variant}, {' '.join(request.include)}, recommends {request.recommends}"
    start = time.perf_counter()
    try:
        ours = resolve(universe, request)
    except MkrootError as e:
        tally.seconds += time.perf_counter() - start
        if theirs.refused:
            tally.equal += 1
            tally.refused += 1
        else:
            tally.different.append(f"{asked}\n  apt finds {len(theirs.packages)} packages, mkroot refuses: {e}")
        return
    tally.seconds += time.perf_counter() - start
    if fault := referee(ours, work):
        tally.different.append(f"{asked}\n  dose-debcheck refuses: {fault}")
        return
    packages = {p.id: p.version for p in ours.packages}
    if theirs.refused and ours.notes:
        tally.equal += 1
        tally.found += 1
    elif theirs.packages == packages:
        tally.equal += 1
    else:
        only = sorted(theirs.packages.items() - packages.items()), sorted(packages.items() - theirs.packages.items())
        tally.different.append(f"{asked}\n  apt: {only[0][:20] or theirs.output[-800:]}\n  mkroot: {only[1][:20]}")


def main(arguments: Sequence[str]) -> int:
    """Compare as many requests as asked and print what was found."""
    count = int(arguments[0]) if arguments else 500
    first = int(arguments[1]) if len(arguments) > 1 else 0
    releases = tuple(arguments[2:]) or tuple(RELEASES)
    if (fault := missing()) is not None:
        print(fault, file=sys.stderr)
        return 1
    cache = Path(os.environ.get("MKROOT_TEST_CACHE") or Path(tempfile.gettempdir()) / f"mkroot-indices-{os.getuid()}")
    cache.mkdir(parents=True, exist_ok=True)
    equal = total = 0
    for number, release in enumerate(releases):
        share = count // len(releases) + (number < count % len(releases))
        with tempfile.TemporaryDirectory() as work:
            tally = compare(release, range(first, first + share), cache, Path(work))
        for text in tally.different:
            print(text)
        print(
            f"{release}: {tally.equal} of {share} equal ({tally.refused} refused by both, {tally.found} found where "
            f"apt gives up), {tally.seconds / share:.3f} s a request"
        )
        equal, total = equal + tally.equal, total + share
    print(f"{equal} of {total} equal, {100 * equal / total:.1f} %")
    return 0 if equal >= 0.99 * total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
