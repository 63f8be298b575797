"""The OCI bundle that crun is given: what the runtime specification calls what a container has."""

from __future__ import annotations

from typing import Any

import pytest

from mkroot.container.crun import bundle, command_line, process

CONFIG: dict[str, Any] = {
    "root": "/store/merged",
    "network": False,
    "hostname": "box",
    "read_only": True,
    "volumes": [("/host/data", "data", True, True), ("/host/file", "etc/file", False, False)],
    "files": [("etc/hosts", b"")],
    "folder": "/store/bundle",
    "hidden": ("proc/kcore",),
    "fixed": ("proc/sys",),
    "namespaced": False,
}
REQUEST: dict[str, Any] = {
    "argv": ("sh", "-c", "true"),
    "environment": {"A": "1"},
    "uid": 0,
    "gid": 5,
    "groups": (7,),
    "workdir": "/srv",
    "terminal": True,
    "size": (33, 99),
}


def mounts(**changes: Any) -> dict[str, dict[str, Any]]:
    return {m["destination"]: m for m in bundle({**CONFIG, **changes})["mounts"]}


def test_a_bundle() -> None:
    found = bundle(CONFIG)
    assert found["root"] == {"path": "/store/merged", "readonly": True}
    assert {n["type"] for n in found["linux"]["namespaces"]} == {"mount", "ipc", "uts", "cgroup"}
    assert (found["linux"]["maskedPaths"], found["linux"]["readonlyPaths"]) == (["/proc/kcore"], ["/proc/sys"])
    assert found["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    denied = found["linux"]["seccomp"]["syscalls"][0]
    assert denied["action"] == "SCMP_ACT_ERRNO"
    assert {"mount", "unshare", "bpf", "io_uring_setup", "kexec_load"} <= set(denied["names"])
    assert "nodev" in str(found["hooks"]["createContainer"])


def test_mounts() -> None:
    found = mounts()
    assert found["/data"]["options"] == ["rbind", "nodev", "rro"]
    assert found["/etc/file"]["options"] == ["rbind", "nodev", "rw"]
    assert found["/etc/hosts"]["source"] == "/store/bundle/file0"
    assert list(found).index("/etc/hosts") < list(found).index("/data")  # a volume may take its place


@pytest.mark.parametrize(
    ("namespaced", "network", "kind"), [(False, False, "sysfs"), (True, True, "sysfs"), (True, False, "bind")]
)
def test_sys_is_the_hosts_where_the_network_is(namespaced: bool, network: bool, kind: str) -> None:
    sysfs = mounts(namespaced=namespaced, network=network)["/sys"]
    assert sysfs["type"] == kind
    assert ("rro" if kind == "bind" else "ro") in sysfs["options"]


def test_a_process() -> None:
    found = process(REQUEST, ["chown", "kill"])
    assert (found["args"], found["env"], found["cwd"]) == (["sh", "-c", "true"], ["A=1"], "/srv")
    assert found["user"] == {"uid": 0, "gid": 5, "additionalGids": [5, 7], "umask": 0o022}
    assert found["capabilities"]["bounding"] == found["capabilities"]["effective"] == ["CAP_CHOWN", "CAP_KILL"]
    assert found["consoleSize"] == {"height": 33, "width": 99}
    other = process({**REQUEST, "uid": 9, "terminal": False}, ["chown"])
    assert (other["capabilities"]["bounding"], other["capabilities"]["effective"]) == (["CAP_CHOWN"], [])
    assert "consoleSize" not in other


def test_command_lines() -> None:
    main = command_line("/usr/bin/crun", True, False, 1)
    assert main[0] == "/usr/bin/crun"
    assert main[-4:] == ["pid1", "--bundle", ".", "container"]
    assert command_line("crun", False, True, 2)[-7:] == [
        "--console-socket", "console2", "--pid-file", "pid2", "--process", "process2", "container",
    ]  # fmt: skip


def test_no_device_opens_but_those_bound() -> None:
    found = mounts(namespaced=False, network=True)
    assert "nodev" in found["/dev"]["options"]
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert found[f"/dev/{name}"]["source"] == f"/dev/{name}"
        assert list(found).index("/dev") < list(found).index(f"/dev/{name}")
