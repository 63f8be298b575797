"""The bench's figure of memory: the biggest process of all that a command starts, killed ones included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCH = (
    "import resource, sys\nfrom pathlib import Path\nfrom tests.bench.measure import Contender, run\n"
    "command = [sys.executable, '-S', '-c', sys.argv[1]]\n"
    "print(run(Contender('x', [command]), Path(sys.argv[2]))[1], resource.getrusage(0).ru_maxrss << 10)\n"
)


def measured(folder: Path, code: str) -> tuple[int, int]:
    """The MiB that a small bench, unlike this process of many tests, shows of a command, and its own."""
    words = [sys.executable, "-c", BENCH, code, str(folder / "log")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    shown, own = map(int, done.stdout.split())
    return shown >> 20, own >> 20


def peak(folder: Path, code: str) -> int:
    return measured(folder, code)[0]


def test_forked_processes_that_were_killed_count(tmp_path: Path) -> None:
    """As those that unpack packages, and process 1 of a sandbox: each is killed, and waited for."""
    code = (
        "import os, time\nr, w = os.pipe()\np = os.fork()\nif p == 0:\n x = bytearray(96 << 20)\n os.write(w, b'x')\n"
        " time.sleep(9)\nos.read(r, 1)\nos.kill(p, 9)\nos.waitpid(p, 0)\n"
    )
    assert 96 <= peak(tmp_path, code) < 200


def test_their_children_count_as_well(tmp_path: Path) -> None:
    code = (
        "import os\np = os.fork()\nif p == 0:\n q = os.fork()\n if q == 0:\n  x = bytearray(96 << 20)\n  os._exit(0)\n"
        " os.waitpid(q, 0)\n os._exit(0)\nos.waitpid(p, 0)\n"
    )
    assert 96 <= peak(tmp_path, code) < 200


def test_a_small_command_shows_no_more_than_the_bench_itself_has(tmp_path: Path) -> None:
    shown, own = measured(tmp_path, "pass")
    assert shown <= max(own, 32)
