"""What it costs to verify: the signatures of the Release files, and the digest of every index and package.

python -m tests.bench.trust STORE DISTRO [signatures]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.measure import Contender
from tests.bench.works import ROOT, Release, Site

LIMIT = 5.0  # per cent of a cold build


def lines(site: Site, release: Release, cold: list[Contender], runs: int) -> list[str]:
    """Return, for a build from a lock and for one without, what part of its time verification would take by itself."""
    found = []
    for contender, what in ((cold[0], "digests"), (cold[2], "signatures")):
        seconds = statistics.median(_measured(site, release, what) for _ in range(runs))
        share = 100 * seconds / contender.median
        verdict = "met" if share <= LIMIT else "missed"
        found.append(
            f"verification, `{contender.name}`: {seconds:.3f} s by itself on one processor, "
            f"{share:.1f} % of the build (goal: {LIMIT:.0f} %, {verdict})"
        )
    return found


def _measured(site: Site, release: Release, what: str) -> float:
    store = site.work / f"store-{release.suite}"
    command = [sys.executable, "-m", "tests.bench.trust", str(store), release.distro, what]
    return float(subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout)


def main() -> None:
    """Verify what a store holds once, and print the seconds: imports of the OpenPGP library included, Python's not."""
    store, distro, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    start = time.monotonic()
    from mkroot.digest import sha256_file

    kinds = ["debs"]
    if what == "signatures":
        from mkroot.archive import keyring, signature

        kinds.append("indices")
        keys = keyring.shipped(distro)
        for path in (store / "releases").glob("*/*"):
            signature.verify_inline(path.read_bytes(), keys, now=int(time.time()), where=path.name)
    for kind in kinds:
        for path in (store / kind).glob("*/*"):
            if "." not in path.name and sha256_file(path) != path.name:
                raise SystemExit(f"{path} is damaged")
    print(time.monotonic() - start)


if __name__ == "__main__":
    main()
