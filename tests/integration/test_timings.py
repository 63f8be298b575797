"""`mkroot build --timings` of a root whose scripts run: each script and each stage stands on the page."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.faults.archives import SCRIPTED, scripted_archive
from tests.unit.commands import Program

LOOP = "#!/bin/sh\ni=0; while [ $i -lt 100000 ]; do i=$((i+1)); done\n"  # there is no sleep


def test_scripts_stand_in_a_lane_of_their_own(tmp_path: Path) -> None:
    archive = scripted_archive(tmp_path / "archive")
    archive.add("later", "1.0", files={"usr/share/later": b"x"}, scripts={"preinst": "#!/bin/sh\nexit 0\n"})
    archive.add("slow", "1.0", files={"usr/share/slow": b"x"}, scripts={"postinst": LOOP})
    program = Program(tmp_path)
    packages = {**SCRIPTED["packages"], "include": [*SCRIPTED["packages"]["include"], "later", "slow"]}
    hook = tmp_path / "hook.sh"
    hook.write_text("true\n")
    with archive.serve() as server:
        recipe = archive.recipe(uri=server.uri, **{**SCRIPTED, "packages": packages})
        program.recipe("r.yaml", {**recipe, "hooks": [{"at": "configured", "run": "./hook.sh"}]})
        done = program("build", "r.yaml", "--no-lock", "--json", "--timings", "t.html")
        assert done.status == 0, done.err
        again = program("build", "r.yaml", "--no-lock", "--json", "-o", "again", "--timings", "again.html")
    (built,) = done.json["builds"]
    spans = built["timings"]["spans"]
    scripts = {s["name"]: s["end"] - s["begin"] for s in spans if s["lane"] == "scripts"}
    assert {"dpkg postinst", "app postinst", "later preinst", "later postinst", "slow postinst"} <= set(scripts)
    assert any(name.startswith("the hook ") and name.endswith("hook.sh") for name in scripts)
    assert scripts["slow postinst"] == max(scripts.values()) > 0.02
    ordered = [s for s in spans if s["lane"] == "scripts"]
    assert all(a["end"] <= b["begin"] for a, b in pairwise(ordered))
    steps = [s for s in spans if s["kind"] == "step" and s["name"].startswith("configure ")]
    hooks = [s for s in spans if s["name"] == "customise"]
    for one in ordered:  # each runs within its stage
        assert any(s["begin"] <= one["begin"] and one["end"] <= s["end"] for s in (*steps, *hooks)), one
    waited = {w["for"]: w["seconds"] for w in built["timings"]["waited"]}
    assert waited["scripts"] >= scripts["slow postinst"]
    text = (tmp_path / "t.html").read_text()
    assert "<tr><td>slow</td>" in text and ">app postinst: " in text
    sources = built["sources"]
    assert sources["stages"] == len(steps) > 0 and sources["stages_stored"] == 0
    assert again.json["builds"][0]["artifacts"][0]["digest"] == built["artifacts"][0]["digest"]
    assert not [s for s in again.json["builds"][0]["timings"]["spans"] if s["lane"] == "scripts"]
