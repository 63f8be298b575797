"""Brings the store up to date with a build's sources: Release files checked, package indices at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mkroot.archive import packages
from mkroot.archive.config import Config
from mkroot.archive.follower import following
from mkroot.archive.http import Http
from mkroot.archive.index import LARGE
from mkroot.archive.inrelease import Obtained, Policy, SuiteRecord, obtain
from mkroot.archive.parallel import each
from mkroot.archive.source import Source, SuiteSource, at_snapshot, configured_template
from mkroot.debian.release import Index
from mkroot.store.store import Store

WORKERS = 6  # at once; indices are unpacked as well, so that more than a few threads do not help


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """Every index of the sources, in their order, and what the lock keeps of each suite."""

    indices: tuple[Index, ...]
    suites: tuple[SuiteRecord, ...]


def refresh(
    store: Store,
    sources: Sequence[Source],
    *,
    http: Http,
    policy: Policy,
    progress: Callable[[str], None] | None = None,
) -> Refreshed:
    """Verify the Release of every suite of `sources` and get their package indices into the store.

    progress: called with the name of each suite and index when it is there, from one thread.
    The result does not depend on the order in which things arrive. Raises MirrorError, TrustError, StoreError.
    """
    tell = progress or (lambda _: None)
    suites = [(n, source, suite) for n, source in enumerate(sources) for suite in source.suites]

    def release(job: tuple[int, Source, SuiteSource]) -> Obtained:
        return obtain(store, job[1], job[2], http, policy)

    releases: dict[tuple[int, str], Obtained] = {}
    for (n, _, suite), found in each(suites, release, workers=WORKERS, stop=http.stop):
        releases[n, suite.name] = found
        tell(suite.name)
    wanted = [
        index
        for n, source, suite in suites
        for index in packages.listed(source, suite, releases[n, suite.name].release)
    ]

    made: dict[int, Index] = {}
    jobs = sorted(enumerate(wanted), key=lambda job: -job[1].weight)
    large = [n for n, job in jobs if not policy.offline and job.weight > LARGE and packages.lacking(store, job)]
    with following(store, len(large)) as processes:
        followers = dict(zip(large, processes, strict=False))

        def get(job: tuple[int, packages.Listed]) -> Index:
            n, index = job
            found = packages.get(store, index, http, offline=policy.offline, follower=followers.get(n))
            return _index(index, *found)

        for (n, job), index in each(jobs, get, workers=WORKERS, stop=http.stop):
            made[n] = index
            tell(job.name)
    for found in releases.values():
        found.keep()
    return Refreshed(
        indices=tuple(made[n] for n in range(len(wanted))),
        suites=tuple(releases[n, suite.name].record for n, _, suite in suites),
    )


def _index(found: packages.Listed, path: Path, sha256: str, size: int) -> Index:
    release = found.release
    return Index(
        source=found.source.id,
        suite=found.suite.name,
        codename=release.codename,
        release_suite=release.suite,
        component=found.component,
        architecture=found.architecture,
        origin=release.origin,
        label=release.label,
        version=release.version,
        date=release.date,
        path=path,
        sha256=sha256,
        size=size,
        site=found.suite.archive.host,
        base=found.suite.base,
        trusted=True,
        not_automatic=release.not_automatic,
        but_automatic_upgrades=release.but_automatic_upgrades,
    )


def snapshot(store: Store, source: Source, date: str, *, config: Config, http: Http, policy: Policy) -> Source:
    """Return `source` as it was at `date` ("20261101T000000Z"), every suite of it.

    The address pattern is the configuration's, else that of the live Release's Snapshots field, whose signature is
    checked and whose age does not matter. Raises MirrorError when a suite has neither.
    """

    def pattern(suite: SuiteSource) -> str:
        if configured := configured_template(source, suite, config):
            return configured
        lenient = Policy(now=policy.now, offline=policy.offline, allow_expired=True)
        found = obtain(store, source, suite, http, lenient)
        found.keep()
        return found.release.snapshots

    patterns = each(source.suites, pattern, workers=WORKERS, stop=http.stop)
    return at_snapshot(source, date, [(suite, found) for suite, found in patterns])
