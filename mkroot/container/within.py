"""Runs one more command in a container that another mkroot process runs."""

from __future__ import annotations

from collections.abc import Mapping

from mkroot.container import union
from mkroot.container.record import RUNNING, Container, Containers
from mkroot.container.session import Ended, Request, Session, connect
from mkroot.container.user import find_user
from mkroot.container.view import View
from mkroot.errors import ContainerError
from mkroot.store.store import Store
from mkroot.store.trees import Trees


def execute(
    store: Store,
    container: Container,
    argv: tuple[str, ...],
    *,
    environment: Mapping[str, str],
    user: str | None = None,
    workdir: str | None = None,
    terminal: bool = False,
    interactive: bool = False,
) -> Ended:
    """Run a command with mkroot's own streams; return how it ended. Raises ContainerError.

    environment: over that of the container's own command, whose user and folder it has as well unless others are given.
    Process 1 starts it, so no identity is needed here, only the same user.
    """
    containers = Containers(store)
    if container.status != RUNNING:
        raise ContainerError(
            f"the container {container.name} is not running", hint=f"`mkroot start {container.name}` starts it"
        )
    trees = Trees(store.root / f"trees-{container.identity}")
    lowers = union.lowers_of(trees, container.layers)
    view = View([str(p) for p in (containers.upper(container), *lowers)])
    who = find_user(container.settings.user if user is None else user, view.read("etc/passwd"), view.read("etc/group"))
    variables = {"HOME": who.home, **dict(word.partition("=")[::2] for word in container.settings.env), **environment}
    request = Request(
        argv=argv,
        environment=variables,
        user=who,
        workdir=workdir or container.settings.workdir,
        terminal=terminal,
        interactive=interactive,
    )
    wire = connect(containers.folder(container))
    try:
        return Session(wire, request).run()
    finally:
        wire.close()
