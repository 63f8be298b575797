"""A build on the real archive that is stopped half-way: it ends at once, leaves nothing, and the next one is right."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.building import MKROOT, ROOT, mkroot

pytestmark = pytest.mark.archive
RECIPE = ROOT / "recipes" / "debian-min.yaml"


def processes(session: int) -> list[str]:
    """Return the living processes of a session: one that ended and waits for process 1 to take note holds nothing."""
    words = ["ps", "-s", str(session), "-o", "stat=,pid=,args="]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    return [line for line in run.stdout.splitlines() if not line.startswith("Z")]


@pytest.mark.counts("fault")
@pytest.mark.parametrize(
    ("number", "after", "status"),
    [
        (signal.SIGINT, 0.4, 130),
        (signal.SIGINT, 2.0, 130),
        (signal.SIGTERM, 1.2, 143),
        (signal.SIGINT, 3.5, 130),
    ],
)
def test_a_stopped_build_leaves_nothing(number: int, after: float, status: int, store: Path, tmp_path: Path) -> None:
    mkroot("build", RECIPE, "-o", tmp_path / "right", "--no-lock", store=store)
    own = tmp_path / "store"
    words = [str(MKROOT), "build", str(RECIPE), "-o", str(tmp_path / "out"), "--no-lock"]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MKROOT_STORE": str(own)},
        start_new_session=True,
    )
    time.sleep(after)
    if process.poll() is not None:
        pytest.skip(f"the build took less than {after} s")
    start = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does: to all of them
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert (process.returncode, out) == (status, ""), err
    assert "Traceback" not in err
    assert processes(process.pid) == []
    assert str(own) not in Path("/proc/mounts").read_text()
    assert not list(own.glob("tmp/*"))  # on a busy machine the build may not have come to its store
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*"))
    mkroot("build", RECIPE, "-o", tmp_path / "out", "--no-lock", store=own)
    name = Path("debian-min/amd64/rootfs.tar.zst")
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "right" / name).read_bytes()
    assert mkroot("cache", "verify", store=own).returncode == 0
