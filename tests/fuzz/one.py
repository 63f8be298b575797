"""One fuzzer under atheris: `python -m tests.fuzz.one PARSER [libFuzzer's options]`."""

from __future__ import annotations

import sys

import atheris

if __name__ == "__main__":
    name = sys.argv[1]
    with atheris.instrument_imports(include=["mkroot"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def once(data: bytes) -> None:
        """Run the target; what it refuses is as good as what it takes."""
        target(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
    atheris.Fuzz()
