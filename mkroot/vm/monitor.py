"""QEMU's monitor: the events that it tells, and the few questions that it is asked. QMP by qemu.qmp."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import msgspec

_PATIENCE = 2.0  # seconds; a virtual processor that hangs in the host's kernel makes QEMU deaf


class Event(msgspec.Struct, frozen=True):
    """An event of QEMU (docs/interop/qmp-spec): its name, and whether the guest itself caused it."""

    name: str
    guest: bool = False
    reason: str = ""


class Monitor:
    """A connection to a running QEMU, from within an event loop; no question waits for QEMU beyond `_PATIENCE`."""

    def __init__(self, end: socket.socket) -> None:
        """end: this side of a pair of sockets, not blocking."""
        from qemu.qmp import QMPClient

        self._client = QMPClient("mkroot")
        self._task = asyncio.create_task(self._listen(end))
        self._events: list[Event] = []
        self._open = False

    async def _listen(self, end: socket.socket) -> None:
        from qemu.qmp import QMPError

        try:
            await self._client.connect(end)
            self._open = True
            async for message in self._client.events:
                data = message.get("data")
                facts = data if isinstance(data, dict) else {}
                name, reason = str(message["event"]), str(facts.get("reason", ""))
                self._events.append(Event(name, bool(facts.get("guest")), reason))
        except (QMPError, OSError, EOFError):
            self._open = False  # QEMU has ended, or does not answer; the process tells

    def take(self) -> list[Event]:
        """Return the events since the last time."""
        events, self._events = self._events, []
        return events

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Return QEMU's answer, None where there is none in time."""
        if not self._open:
            return None
        from qemu.qmp import QMPError

        with contextlib.suppress(QMPError, OSError, EOFError, asyncio.TimeoutError):
            return await asyncio.wait_for(self._client.execute(command, arguments or None), _PATIENCE)
        return None

    async def halts(self) -> int:
        """Return how often the first virtual processor has waited for work under KVM; 0 where QEMU does not know."""
        answer = await self.ask("query-stats", target="vcpu")
        with contextlib.suppress(TypeError, KeyError, IndexError):
            return sum(s["value"] for s in answer[0]["stats"] if s["name"] == "halt_exits")
        return 0

    async def close(self) -> None:
        """Let go of QEMU."""
        self._task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.wait_for(self._client.disconnect(), 0.5)
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
