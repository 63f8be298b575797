"""`python -m tests.fuzz [PARSER...]`: run the fuzzers, one process each, and print what they did.

FUZZ_RUNS: executions a parser, a million unless told otherwise. FUZZ_JOBS: processes at a time, two. FUZZ_OUT: the
folder of what broke a parser.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.corpus import PLACE
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

SECONDS = 10  # that one input may take before it counts as a hang
MEMORY = 1024  # MiB that a parser and its fuzzer may have
OUT = Path(os.environ.get("FUZZ_OUT", "fuzz-out"))  # inputs that broke something


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one parser: executions, seconds, the slowest input's seconds, and a fault's last words."""

    name: str
    runs: int
    seconds: float
    slowest: int
    fault: str = ""


def run(target: Target, runs: int) -> Outcome:
    """Fuzz one parser in a process of its own, beginning with its corpus."""
    OUT.mkdir(exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mkroot-fuzz.") as folder:
        grown = Path(folder, "grown")
        grown.mkdir()
        options = [f"-runs={runs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY}", f"-max_len={target.longest}"]
        options += [f"-artifact_prefix={OUT}/{target.name}-", "-print_final_stats=1", "-seed=1"]
        if target.words:
            words = Path(folder, "words")
            words.write_text("".join('"' + "".join(f"\\x{b:02x}" for b in word) + '"\n' for word in target.words))
            options.append(f"-dict={words}")
        argv = [sys.executable, "-m", "tests.fuzz.one", target.name, *options, str(grown), str(PLACE / target.name)]
        environ = os.environ | {"TMPDIR": folder}
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", env=environ, check=False)
    said = done.stdout + done.stderr
    units = re.search(r"stat::number_of_executed_units: (\d+)", said)
    slowest = re.search(r"stat::slowest_unit_time_sec: *(\d+)", said)
    fault = ""
    if done.returncode:  # the exception, else the fuzzer's own words
        found = re.search(r"=== Uncaught Python exception: ===\n(.*?)\n\n", said, re.DOTALL)
        fault = found[1] if found else said[-2000:].strip() or f"status {done.returncode}"
    return Outcome(
        name=target.name,
        runs=int(units[1]) if units else 0,
        seconds=time.monotonic() - start,
        slowest=int(slowest[1]) if slowest else 0,
        fault=fault,
    )


def main(names: list[str]) -> int:
    """Run the parsers named, or all; 1 where one of them broke."""
    if unknown := sorted(set(names) - set(TARGETS)):
        print(f"no such parser: {', '.join(unknown)}; there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    runs = int(os.environ.get("FUZZ_RUNS", "1000000"))
    jobs = int(os.environ.get("FUZZ_JOBS", "2"))
    wanted = [TARGETS[name] for name in names or TARGETS]
    shutil.rmtree(OUT, ignore_errors=True)
    outcomes = []
    print(f"{'parser':<16}{'executions':>12}{'seconds':>9}{'a second':>10}  faults", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(lambda target: run(target, runs), wanted):
            outcomes.append(outcome)
            speed = outcome.runs / outcome.seconds
            fault = "none" if not outcome.fault else f"see {OUT}/{outcome.name}-*"
            print(f"{outcome.name:<16}{outcome.runs:>12,}{outcome.seconds:>9.0f}{speed:>10,.0f}  {fault}", flush=True)
    for outcome in outcomes:
        if outcome.fault:
            print(f"\n{outcome.name}:\n{outcome.fault}")
    total = sum(o.runs for o in outcomes)
    print(f"\n{total:,} executions of {len(outcomes)} parsers, {sum(bool(o.fault) for o in outcomes)} broken")
    return int(any(o.fault for o in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
