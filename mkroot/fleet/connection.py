"""A run's connection to a Dask cluster: the scheduler, its workers, and what each of them can do."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mkroot.decoding import from_msgpack
from mkroot.errors import ClusterError, masked, printable, shortened
from mkroot.fleet import abilities
from mkroot.fleet.abilities import Abilities
from mkroot.fleet.model import Fault, Step

if TYPE_CHECKING:
    from distributed import Client

    from mkroot.remote import Settings

CONNECT = 5.0  # seconds that a scheduler may take to answer, and the first worker to join it
ANSWER = 10.0  # seconds that a scheduler which answered before may take to tell who is there
LEAVE = 1.0  # seconds for taking leave
_ADDRESS = re.compile(r"(tcp|tls|ws|wss)://[^/\s]+:\d+/?")
_START = "start one on a machine that has mkroot: `mkroot worker {address}`"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A worker. name: as its log and the table have it. offers: its resources, as the scheduler knows them."""

    address: str
    name: str
    offers: frozenset[str] = frozenset()


class Connection:
    """A cluster that is ready for a run: every worker has mkroot's plugin, so has each that comes later.

    address: as the user gave it. run: the run's name, which is the plugin's and its events'. base: the resource that
    says that a worker takes part.
    """

    def __init__(self, address: str, client: Client, run: str, base: str) -> None:
        self.address, self.client, self.run, self.base = address, client, run, base
        self.found: dict[str, Abilities] = {}  # by worker's address
        self._members: dict[str, Member] = {}

    @property
    def lost(self) -> bool:
        """Whether the scheduler is gone, and nothing that was asked of it will come."""
        return self.client.status not in ("running", "connecting")

    def members(self) -> dict[str, Member]:
        """Return the workers that are there now, by address; raises ClusterError where the scheduler does not tell."""
        with told(self.address):
            answer = self.client.sync(self.client.scheduler.identity, callback_timeout=ANSWER)
        self._members = {
            address: Member(
                address=address,
                name=str(worker["name"]),
                offers=frozenset(name for name, amount in worker.get("resources", {}).items() if amount >= 1),
            )
            for address, worker in answer["workers"].items()
        }
        return self._members

    def name_of(self, address: str) -> str:
        """Return what to call a worker; its address where nothing else is known."""
        member = self._members.get(address)
        return member.name if member is not None else address

    def roll_call(self) -> None:
        """Ask those workers for their abilities of which none are known; raises ClusterError."""
        from mkroot.fleet import worker

        for address in self._members.keys() - self.found.keys():
            with told(self.address):
                answers = self.client.run(worker.found, self.run, workers=[address], on_error="return")
            answer = answers.get(address)
            if isinstance(answer, bytes):
                self.found[address] = from_msgpack(answer, Abilities)

    def able(self, step: Step) -> tuple[str, ...]:
        """Return the addresses of the workers that can do a step, by what the scheduler knows."""
        from mkroot.fleet import worker

        wanted = worker.demanded(self.base, step.asks).keys()
        able = (address for address, member in self._members.items() if wanted <= member.offers)
        return tuple(a for a in able if not step.elsewhere or self._machine(a) not in ("", step.elsewhere))

    def _machine(self, address: str) -> str:
        known = self.found.get(address)
        return known.machine if known is not None else ""

    def unable(self, step: Step) -> Fault | None:
        """Return why no worker that is there can do a step; None where one can."""
        if self.able(step):
            return None
        if not self._members:
            return Fault(what=f"the cluster {self.address} has no worker", hint=_START.format(address=self.address))
        lacks = {
            f"`{member.name}`": known.lack(step.asks)
            for address, member in sorted(self._members.items(), key=lambda item: item[1].name)
            if (known := self.found.get(address)) is not None
        }
        reasons = grouped({name: lack.what for name, lack in lacks.items() if lack is not None})
        if step.elsewhere and None in lacks.values():
            return Fault(
                what=f"no worker of {self.address} is another machine than the one that built it: "
                + ", ".join(name for name, lack in lacks.items() if lack is None),
                hint="a second build must be another machine's: start a worker with a store of its own",
            )
        wish = ", ".join(map(abilities.worded, step.asks)) or "take a step of this run"
        what = f"no worker of {self.address} can {wish}"
        hint = next((lack.hint for lack in lacks.values() if lack is not None and lack.hint), "")
        return Fault(what=f"{what}: {reasons}" if reasons else what, hint=hint)

    def close(self) -> None:
        """Take leave: what still runs for this run ends, and workers forget it. Takes two seconds at most."""
        client = self.client
        with contextlib.suppress(Exception):
            if client.status == "running":
                client.sync(client._unregister_worker_plugin, name=self.run, callback_timeout=LEAVE)
        with contextlib.suppress(Exception):
            client.close(timeout=LEAVE / 2)


def shared(environ: Mapping[str, str], warn: Callable[[str], None]) -> Settings:
    """Return the remote store that a run on a cluster goes through; raises ClusterError where there is none."""
    from mkroot import remote
    from mkroot.archive import config

    settings = remote.settings(environ, config.load(environ), warn)
    if settings is None:
        raise ClusterError(
            "a cluster needs a remote store, through which its results come back, and none is configured",
            hint='set `remote = "registry.example:5000/team/store"` under `[store]` in config.toml, or '
            "`MKROOT_STORE_REMOTE`",
        )
    return settings


def connect(address: str, settings: Settings, environ: Mapping[str, str], warn: Callable[[str], None]) -> Connection:
    """Connect to a cluster and make its workers ready for a run.

    address: of the scheduler, `tcp://…` or `tls://…`, or the path of its scheduler file. settings: the remote store.
    environ: this machine's; what decides bytes and the mirrors go to the workers. warn: takes what the user should
    know. Raises ClusterError where the scheduler or every worker cannot be used, or one has another version.
    """
    client = _client(address)
    run = f"mkroot-{os.urandom(6).hex()}"
    from mkroot.fleet import worker

    connection = Connection(address, client, run, worker.base(abilities.versions(), settings.name))
    try:
        _gather(connection)
        _compare(connection)
        _register(connection, settings, environ)
        connection.members()
        connection.roll_call()
        _judge(connection, warn)
        return connection
    except BaseException:
        connection.close()
        raise


def _client(address: str) -> Client:
    try:
        import dask
        from distributed import Client
    except ImportError as e:
        raise ClusterError(
            f"`--dask` needs Dask, which is not there: {e}", hint="install it: `pip install 'mkroot[fleet]'`"
        ) from None
    _quiet()
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": f"{CONNECT}s",
            "distributed.admin.large-graph-warning-threshold": "10GB",
            "distributed.diagnostics.computations.max-history": 0,
            "distributed.diagnostics.computations.nframes": 0,
        }
    )
    place: dict[str, Any] = {"address": address}
    if is_file(address):
        if not os.path.isfile(address):
            raise ClusterError("there is no such scheduler file", where=address, hint="the scheduler writes one")
        place = {"scheduler_file": address}
    elif not _ADDRESS.fullmatch(address):
        raise ClusterError(f"`{address}` is no scheduler's address", hint="write it as `tcp://HOST:PORT`")
    answer: queue.SimpleQueue[Client | BaseException] = queue.SimpleQueue()

    def begin() -> None:
        try:
            answer.put(Client(**place, timeout=CONNECT, set_as_default=False, name="mkroot"))
        except BaseException as e:
            answer.put(e)

    # A thread, for Dask waits without end for the greeting of a server that is none of its kind.
    threading.Thread(target=begin, daemon=True).start()
    try:
        found = answer.get(timeout=CONNECT + 1)
    except queue.Empty:
        found = TimeoutError()
    if isinstance(found, BaseException):
        raise _unreachable(address, found) from None
    return found


def grouped(reasons: Mapping[str, str]) -> str:
    """Return what is wrong with workers, those with the same reason together."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "; ".join(f"worker {', '.join(those)}: {reason}" for reason, those in names.items())


def is_file(address: str) -> bool:
    """Tell whether an address is meant as the path of a scheduler file."""
    return "://" not in address and (os.path.sep in address or address.endswith(".json"))


def _unreachable(address: str, error: BaseException) -> ClusterError:
    """Return the error of a scheduler that cannot be spoken to."""
    hint = "is the address right, and does `dask scheduler` run there? It is written `tcp://HOST:PORT`"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return ClusterError(f"no scheduler answers at {address}: connection refused", hint=hint)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, OSError | TimeoutError) and "timed out" in f"{error}".lower():
        return ClusterError(f"no scheduler answers at {address} within {CONNECT:.0f} seconds", hint=hint)
    if isinstance(error, TimeoutError):
        return ClusterError(f"what answers at {address} is no Dask scheduler: it does not greet as one", hint=hint)
    what = f"what answers at {address} is no Dask scheduler, or one of another version: {_line(error)}"
    return ClusterError(what, hint=hint)


def _line(error: BaseException) -> str:
    text = printable(masked(f"{error}")).strip().partition("\n")[0]
    return shortened(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


@contextlib.contextmanager
def told(address: str) -> Iterator[None]:
    """Turn what goes wrong between client and scheduler into a ClusterError."""
    from distributed.comm import CommClosedError

    try:
        yield
    except (OSError, TimeoutError, CommClosedError, RuntimeError) as e:
        raise ClusterError(
            f"the scheduler {address} was lost: {_line(e)}",
            hint="what its workers had finished is in the remote store: begin the run again",
        ) from None


def _quiet() -> None:
    """Keep Dask from writing to standard error: what the user should know is told by mkroot.

    It sets up its loggers when it is imported, so this comes after that.
    """
    import distributed  # noqa: F401

    tops = ("distributed", "tornado", "bokeh", "asyncio")
    for name in (*tops, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in tops:
            logger = logging.getLogger(name)
            logger.handlers[:] = [logging.NullHandler()]
            logger.setLevel(logging.CRITICAL + 1)
            logger.propagate = False
    warnings.filterwarnings("ignore", module=r"(distributed|dask|tornado)(\..*)?")
    warnings.filterwarnings("ignore", category=Warning, message=r"(?s).*(Mismatched versions|Sending large graph).*")


def _gather(connection: Connection) -> None:
    """Wait for the first worker; raises ClusterError where none comes."""
    end = time.monotonic() + CONNECT
    while not connection.members():
        if time.monotonic() > end:
            raise ClusterError(
                f"no worker has joined the cluster {connection.address}",
                hint=_START.format(address=connection.address),
            )
        time.sleep(0.2)


def _compare(connection: Connection) -> None:
    """Raise ClusterError where a worker's mkroot, or a library that decides bytes, is of another version."""
    with told(connection.address):
        answers = connection.client.get_versions(packages=list(abilities.VERSIONS))
    mine = answers["client"]["packages"]  # found in the same way, which is not that of every version of Dask
    for address, answer in sorted(answers["workers"].items()):
        theirs = answer.get("packages", {}) if isinstance(answer, dict) else {}
        fault = abilities.differing(mine, theirs, _shown(connection, address))
        if fault is not None:
            raise ClusterError(fault.what, hint=fault.hint)


def _shown(connection: Connection, address: str) -> str:
    name = connection.name_of(address)
    return f"`{name}`" if name == address else f"`{name}` ({address})"


def _register(connection: Connection, settings: Settings, environ: Mapping[str, str]) -> None:
    from mkroot.archive import config
    from mkroot.fleet import worker

    strict = msgspec.structs.replace(settings, strict=True)
    given = {name: environ[name] for name in (worker.EPOCH,) if name in environ} | strict.environ()
    named = {f"{worker.MIRROR}{n.upper().replace('-', '_')}": url for n, url in config.load(environ).mirrors.items()}
    mirrors = named | {name: url for name, url in environ.items() if name.startswith(worker.MIRROR)}
    plugin = worker.Plugin(connection.run, settings.name, given, mirrors)
    try:
        connection.client.register_plugin(plugin, name=connection.run)
    except Exception as e:
        raise ClusterError(
            f"a worker of {connection.address} cannot take part: {_line(e)}",
            hint="its log tells more; it needs the same mkroot as this machine",
        ) from None


def _judge(connection: Connection, warn: Callable[[str], None]) -> None:
    """Tell what is wrong with single workers; raises ClusterError where none is left."""
    faults = {}
    for address, known in sorted(connection.found.items()):
        name = _shown(connection, address)
        if known.fault is not None:
            faults[name] = known.fault
        if warning := abilities.skew(known, time.time(), name):
            warn(warning)
    if faults and len(faults) == len(connection.found):
        reasons = grouped({name: fault.what for name, fault in faults.items()})
        hint = next((fault.hint for fault in faults.values() if fault.hint), None)
        raise ClusterError(f"no worker of {connection.address} can take part: {reasons}", hint=hint)
    for name, fault in faults.items():
        warn(f"worker {name} takes no step: {fault.what}")
