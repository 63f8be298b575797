"""What `doctor` is told of this host, tried as each kind of user."""

from __future__ import annotations

from pathlib import Path

from mkroot.rootfs.probe import file_system
from tests.unit.boxes import KINDS, run


@KINDS
def test_facts_are_tried_as_this_user(kind: str) -> None:
    code = """
from mkroot.rootfs import probe
store = work()
facts = probe.probe(me, store, uid=me.uids[0][1], user="nobody-here")
emit(facts={f.name: [f.works, f.detail, f.hint] for f in facts}, left=os.listdir(store))
"""
    got = run(kind, code)
    facts = got["facts"]
    assert got["left"] == []
    for name in ("identity", "overlayfs", "sandbox", "seccomp user notification", "extended attributes", "store"):
        assert facts[name][0], facts[name]
    assert ("newuidmap" in facts) == (kind != "root")
    if kind == "single":
        assert facts["/etc/subuid"][0] is False
        assert "usermod" in facts["/etc/subuid"][2]
    assert all(hint for works, _, hint in facts.values() if not works)


def test_without_namespaces_the_facts_say_so() -> None:
    code = """
from mkroot.rootfs import probe
none = identities.Identity("none", "n1", reason="forbidden here", hint="enable it")
facts = probe.probe(none, work(), uid=1, user="x")
emit(facts={f.name: [f.works, f.hint] for f in facts})
"""
    facts = run("user", code)["facts"]
    assert facts["identity"] == [False, "enable it"]
    assert facts["overlayfs"][0] is False
    assert facts["sandbox"][0] is False
    assert "static" in facts["sandbox"][1]


def test_file_systems_are_named() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/nowhere/at/all")) == file_system(Path("/"))
