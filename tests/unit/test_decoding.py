"""Values of a type, decoded by several threads at once the first time that anybody meets the type."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys, threading
import msgspec
from mkroot import decoding

sys.setswitchinterval(1e-6)
for n in range(60):
    inner = msgspec.defstruct(f"Inner{n}", [(f"a{i}", int | None, None) for i in range(20)])
    kinds = [
        msgspec.defstruct(f"Outer{n}{k}", [(f"x{i}", tuple[inner, ...], ()) for i in range(30)]) for k in range(2)
    ]
    data = msgspec.FORMAT.encode({"x0": [{"a1": 1}], "x29": [{"a2": 2}]})
    barrier, wrong = threading.Barrier(8), []

    def go(kind):
        barrier.wait()
        value = decoding.from_FORMAT(data, kind)
        if (value.x0[0].a1, value.x29[0].a2) != (1, 2):
            wrong.append(value)

    threads = [threading.Thread(target=go, args=(kinds[k % 2],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
print("good")
"""


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_threads_that_meet_a_type_together(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.replace("FORMAT", form)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
