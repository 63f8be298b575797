"""Gets a suite's Release file: signed by an accepted key, of the suite asked for, not expired, not older than known."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable

import msgspec

from mkroot.archive import armor, signature
from mkroot.archive.answer import Meta, NotFoundError
from mkroot.archive.http import Http
from mkroot.archive.source import Source, SuiteSource
from mkroot.debian.release import Release, parse_release
from mkroot.decoding import from_json
from mkroot.digest import sha256
from mkroot.errors import MirrorError, StoreError, TrustError
from mkroot.store.seal import opened, sealed
from mkroot.store.store import Store

LIMIT = 4 << 20  # bytes of an InRelease; Ubuntu's, the largest known, has 0.3 MB
SIGNATURE_LIMIT = 1 << 20  # bytes of a Release.gpg
KIND = "releases"
_SEEN = "seen"


class SuiteRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock keeps of a suite.

    source, suite: the source's id and the name asked for.
    sha256: of InRelease, or of Release where the archive has that with Release.gpg.
    date: the Release's Date, seconds since 1970.
    fingerprint: of the primary key that signed, lower-case hexadecimal; "" where the recipe trusts it unsigned.
    expired: its Valid-Until has passed and `--allow-expired` let it through.
    """

    source: str
    suite: str
    sha256: str
    date: int
    fingerprint: str
    expired: bool = False


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the store remembers of a suite of one mirror, kept in the file `seen/<digest of the address>`.

    As with apt, each mirror has a memory of its own: one that lags behind another, or a copy that a company froze, is
    no attack, and cannot be told from one. What no mirror may undercut is the lock. That another mirror of the same
    source had a newer Release is told; for that the same record is kept by the suite's name and signer, date alone.

    inrelease, release, signature: digests of the entries in the store ("" where the archive has not that form).
    date: the newest Date seen. etag, modified: for conditional requests.
    """

    inrelease: str = ""
    release: str = ""
    signature: str = ""
    date: int = 0
    etag: str = ""
    modified: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh may and may not do.

    now: seconds since 1970.
    offline: use nothing but the store.
    allow_expired: let a Release pass whose Valid-Until is over.
    not_before: (source id, suite) → the Date that the lock has; an older Release is refused.
    """

    now: int
    offline: bool = False
    allow_expired: bool = False
    not_before: dict[tuple[str, str], int] = {}


class Obtained(msgspec.Struct, frozen=True, kw_only=True):
    """A suite's verified Release and what the lock keeps of it.

    keep: call it when the indices are there as well, and the store remembers the Release; before that, what the
    store remembered stays usable offline.
    """

    release: Release
    record: SuiteRecord
    keep: Callable[[], None]


def obtain(store: Store, source: Source, suite: SuiteSource, http: Http, policy: Policy) -> Obtained:
    """Return a suite's verified Release.

    Raises TrustError for what is not signed as it must be, of another suite, from the future, expired, or older than
    what the lock or the store knows; MirrorError where there is no answer, or with `offline` nothing in the store.
    """
    key = sha256(f"{_SEEN} {_place(suite)}".encode())  # this form of the record has a seal
    seen = _recall(store, key)
    if policy.offline:
        files, told = _kept(store, seen, source, suite), seen
    else:
        files, told = _fetched(store, seen, source, suite, http)
    text, fingerprint = _verified(files, source, suite, policy.now)
    where = f"{suite.address}/Release"
    release = parse_release(text.decode("utf-8", "surrogateescape"), where)
    _check_name(release, source, suite, where)
    expired = _check_dates(release, source, suite, policy, seen.date, where)
    anywhere = sha256(f"{_SEEN} {source.id} {suite.name} {fingerprint}".encode())
    if not source.snapshot and release.date < (newest := _recall(store, anywhere).date):
        http.tell(
            f"{where}: the Release of `{suite.name}` is dated {_day(release.date)}; another mirror had one of "
            f"{_day(newest)}"
        )
    record = SuiteRecord(
        source=source.id,
        suite=suite.name,
        sha256=sha256(files[0] or files[1]),
        date=release.date,
        fingerprint=fingerprint,
        expired=expired,
    )

    def keep() -> None:
        if not policy.offline:
            _keep(store, key, files, told, release.date)
            if not source.snapshot and fingerprint:
                _note(store, anywhere, _Seen(date=release.date))

    return Obtained(release=release, record=record, keep=keep)


def _place(suite: SuiteSource) -> str:
    """Return a mirror's address as the memory has it: an answer by http must not be older than one by https."""
    scheme, _, rest = suite.address.url.partition(":")
    if scheme == "file":
        return suite.address.url
    host, slash, path = rest.removeprefix("//").partition("/")
    return host.removesuffix(":80" if scheme == "http" else ":443") + slash + path


Files = tuple[bytes, bytes, bytes]  # InRelease, Release, Release.gpg; b"" for what the archive has not


def _fetched(store: Store, seen: _Seen, source: Source, suite: SuiteSource, http: Http) -> tuple[Files, _Seen]:
    address = suite.address
    known = _entry(store, seen.inrelease)
    condition = Meta(etag=seen.etag, modified=seen.modified) if known else None
    try:
        data, meta = http.read(address.join("InRelease"), LIMIT, condition=condition)
        if meta.unchanged:
            return (known, b"", b""), seen
        return (data, b"", b""), _Seen(etag=meta.etag, modified=meta.modified)
    except NotFoundError:
        pass
    try:
        text, _ = http.read(address.join("Release"), LIMIT)
    except NotFoundError:
        raise MirrorError(
            f"there is no suite `{suite.name}`: neither InRelease nor Release",
            where=str(address),
            hint="is the suite's name right, and does this mirror carry it?",
        ) from None
    signed = b""
    try:
        signed, _ = http.read(address.join("Release.gpg"), SIGNATURE_LIMIT)
    except NotFoundError:
        if source.keyring is not None:
            raise _unsigned(source, str(address)) from None
    return (b"", text, signed), _Seen()


def _unsigned(source: Source, where: str) -> TrustError:
    return TrustError(
        f"the source `{source.id}` is not signed",
        where=where,
        hint="only an entry of `sources:` with `trusted: true` may be unsigned",
    )


def _verified(files: Files, source: Source, suite: SuiteSource, now: int) -> tuple[bytes, str]:
    """Return the text that may be read and the fingerprint of who signed it."""
    inline, text, signed = files
    where = f"{suite.address}/{'InRelease' if inline or not text else 'Release.gpg'}"
    if source.keyring is None:
        if inline.startswith(armor.SIGNED):
            return armor.split_cleartext(inline, where)[0], ""
        return inline or text, ""
    if text:
        found = signature.verify_detached(text, signed, source.keyring, now=now, where=where)
    else:
        found = signature.verify_inline(inline, source.keyring, now=now, where=where)
    return found.text, found.fingerprint


def _check_name(release: Release, source: Source, suite: SuiteSource, where: str) -> None:
    """The Release must be of the suite asked for: an old suite is signed as well as a new one."""
    if suite.flat:
        return
    names = {release.codename, release.suite} - {""}
    # Ubuntu's pockets share the codename, so there Suite alone tells noble from noble-updates.
    if release.codename and release.suite.startswith(release.codename + "-"):
        names = {release.suite}
    if suite.name not in names:
        found = " or ".join(f"`{n}`" for n in sorted(names)) or "no suite by name"
        raise TrustError(
            f"asked for the suite `{suite.name}`, the signed Release is of {found}",
            where=where,
            hint="`suite:` takes the name that the Release file has as its Codename or Suite",
        )


def _check_dates(release: Release, source: Source, suite: SuiteSource, policy: Policy, seen: int, where: str) -> bool:
    """Return whether the Release is expired and was let through."""
    if release.date > policy.now + signature.SKEW:
        raise TrustError(
            f"the Release of `{suite.name}` is dated {_day(release.date)}, in the future",
            where=where,
            hint="is this machine's clock right?",
        )
    if not source.snapshot:
        locked = policy.not_before.get((source.id, suite.name), 0)
        for known, who in ((locked, "the lock"), (seen, "this store")):
            if release.date < known:
                raise TrustError(
                    f"the Release of `{suite.name}` is dated {_day(release.date)}, and {who} knows one "
                    f"of {_day(known)}: the mirror went back in time",
                    where=where,
                    hint="the mirror may be behind: try again later, or name another one with `--mirror`",
                )
        if release.valid_until is not None and release.valid_until < policy.now:
            if not policy.allow_expired:
                raise TrustError(
                    f"the Release of `{suite.name}` was valid until {_day(release.valid_until)}",
                    where=where,
                    hint="the mirror is no longer updated; `--allow-expired` takes it all the same",
                )
            return True
    return False


def _day(when: int) -> str:
    return datetime.datetime.fromtimestamp(when, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _kept(store: Store, seen: _Seen, source: Source, suite: SuiteSource) -> Files:
    files = (_entry(store, seen.inrelease), _entry(store, seen.release), _entry(store, seen.signature))
    if not files[0] and not files[1]:
        raise MirrorError(
            f"the store has no Release of `{suite.name}`",
            where=str(suite.address),
            hint="run once without `--offline`",
        )
    if files[1] and not files[2] and source.keyring is not None:
        raise _unsigned(source, str(suite.address))
    return files


def _entry(store: Store, digest: str) -> bytes:
    """Return an entry of the store, b"" where it is missing or damaged: it is fetched anew then."""
    if not digest:
        return b""
    try:
        data = store.path(KIND, digest).read_bytes()
    except OSError:
        return b""
    return data if sha256(data) == digest else b""


def _keep(store: Store, key: str, files: Files, told: _Seen, date: int) -> None:
    names: list[str] = []
    for data in files:
        names.append(sha256(data) if data else "")
        if data and _entry(store, names[-1]) != data:
            with contextlib.suppress(FileNotFoundError):
                store.path(KIND, names[-1]).unlink()
            with store.writing(KIND, names[-1], sync=False) as aside:  # its digest is checked when it is read
                aside.write_bytes(data)
    seen = _Seen(
        inrelease=names[0],
        release=names[1],
        signature=names[2],
        date=date,
        etag=told.etag,
        modified=told.modified,
    )
    _note(store, key, seen)


def _note(store: Store, key: str, seen: _Seen) -> None:
    """Remember it, with the newest date that ever was."""
    with store.lock(_SEEN, key):
        before = _recall(store, key)
        after = msgspec.structs.replace(seen, date=max(seen.date, before.date))
        if after != before:
            _remember(store, key, after)


def _recall(store: Store, key: str) -> _Seen:
    path = store.path(_SEEN, key)
    try:
        return from_json(opened(path.read_bytes()), _Seen)
    except FileNotFoundError:
        return _Seen()
    except OSError as e:
        raise StoreError(
            f"what the store remembers of a mirror's Release cannot be read: {e.strerror}",
            where=str(path),
            hint="without it an older Release could pass for new; `mkroot cache verify` removes it, to start anew",
        ) from None
    except (ValueError, msgspec.DecodeError) as e:
        raise StoreError(
            "what the store remembers of a mirror's Release cannot be read, so an older one could pass for new",
            where=str(path),
            hint=f"`mkroot cache verify` removes it, to start anew ({type(e).__name__})",
        ) from None


def _remember(store: Store, key: str, seen: _Seen) -> None:
    store.replace(_SEEN, key, sealed(msgspec.json.encode(seen)))
