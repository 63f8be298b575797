"""Containers in a store: found by name, id and its beginning; whole or not at all; and not running once nobody runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mkroot.container.name import check_name, make_name
from mkroot.container.record import EXITED, RUNNING, Container, Containers, Process, new_id, started
from mkroot.errors import ContainerError
from mkroot.store.store import Store


@pytest.fixture
def containers(tmp_path: Path) -> Containers:
    return Containers(Store(tmp_path / "store"))


def made(containers: Containers, name: str, container_id: str = "", **more: Any) -> Container:
    container = Container(
        id=container_id or new_id(),
        name=name,
        image="sha256:" + "0" * 64,
        reference="box:1",
        created=1_700_000_000,
        command=("/bin/sh",),
        **more,
    )
    containers.create(container)
    return container


def test_one_is_found_by_id_beginning_and_name(containers: Containers) -> None:
    one = made(containers, "calm-owl", "ab" * 32)
    made(containers, "brave-fox", "ac" * 32)
    for word in (one.id, one.short, "ab", "calm-owl"):
        assert containers.find(word) == one
    assert containers.get(one.id) == one
    assert [c.name for c in containers.list()] == ["brave-fox", "calm-owl"]


def test_a_beginning_that_several_have_is_refused_and_they_are_named(containers: Containers) -> None:
    made(containers, "calm-owl", "ab" * 32)
    made(containers, "brave-fox", "ac" * 32)
    with pytest.raises(ContainerError, match=r"begins the ids of 2 containers.*brave-fox.*calm-owl"):
        containers.find("a")


def test_a_name_wins_over_a_beginning(containers: Containers) -> None:
    made(containers, "calm-owl", "ab" * 32)
    named = made(containers, "ab", "cd" * 32)
    assert containers.find("ab") == named


@pytest.mark.parametrize("word", ["", "calm-awl", "ff", "../calm-owl", "*"])
def test_one_that_is_not_there_is_said_so(containers: Containers, word: str) -> None:
    made(containers, "calm-owl", "ab" * 32)
    with pytest.raises(ContainerError, match="there is no container") as caught:
        containers.find(word)
    assert "mkroot ps -a" in str(caught.value.hint)
    assert ("calm-owl" in str(caught.value.hint)) == word.startswith(("calm", ".."))


def test_names_are_taken_once_and_the_second_leaves_nothing(containers: Containers) -> None:
    first = made(containers, "calm-owl")
    with pytest.raises(ContainerError, match=f"taken by the container {first.short}"):
        made(containers, "calm-owl")
    assert os.listdir(containers.root) == [first.id]
    assert not os.listdir(containers.root.parent / "tmp")


def test_a_container_has_its_folder_and_only_its_user_reads_what_it_printed(containers: Containers) -> None:
    one = made(containers, "calm-owl")
    assert sorted(os.listdir(containers.folder(one))) == ["container.json", "lock", "log", "upper", "work"]
    assert containers.log(one).stat().st_mode & 0o777 == 0o600
    assert containers.upper(one).stat().st_mode & 0o777 == 0o755


def test_a_record_is_replaced_whole(containers: Containers) -> None:
    one = made(containers, "calm-owl")
    containers.save(replace(one, status=EXITED, exit_code=3, owners={"a": (1, 2)}))
    assert containers.get(one.id).exit_code == 3
    assert containers.get(one.id).owners == {"a": (1, 2)}
    assert sorted(os.listdir(containers.folder(one))) == ["container.json", "lock", "log", "upper", "work"]


def test_one_whose_mkroot_is_gone_does_not_run(containers: Containers) -> None:
    me = Process(pid=os.getpid(), start=started(os.getpid()))
    running = made(containers, "calm-owl", status=RUNNING, supervisor=me)
    assert containers.get(running.id).status == RUNNING
    containers.save(replace(running, supervisor=replace(me, start=me.start + 1)))  # the number, used again
    assert (containers.get(running.id).status, containers.get(running.id).exit_code) == (EXITED, None)
    assert json.loads((containers.folder(running) / "container.json").read_bytes())["status"] == RUNNING


def test_a_zombie_is_gone() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert started(pid) == 0
    finally:
        os.waitpid(pid, 0)
    assert started(os.getpid()) > 0


def test_one_that_is_in_use_is_not_taken(containers: Containers) -> None:
    one = made(containers, "calm-owl")
    with containers.lock(one), pytest.raises(ContainerError, match="in use"), containers.lock(one):
        pass
    with containers.lock(one):
        containers.remove(one)
    with pytest.raises(ContainerError, match="gone"), containers.lock(one):
        pass
    assert containers.list() == []
    assert not os.listdir(containers.root.parent / "tmp")


def test_a_damaged_record_is_named(containers: Containers) -> None:
    one = made(containers, "calm-owl")
    (containers.folder(one) / "container.json").write_text('{"id": 3}')
    with pytest.raises(ContainerError, match="cannot be read") as caught:
        containers.list()
    assert one.id in str(caught.value.where)


def test_names_that_are_made_up_are_names_and_new() -> None:
    taken: set[str] = set()
    for _ in range(50):
        name = make_name(taken)
        assert check_name(name) == name
        assert name not in taken
        taken.add(name)


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "é", "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ContainerError, match="not a name"):
        check_name(name)
