"""Users and passwords for registries, where Docker and podman keep them: config.json, auth.json, credential helpers."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from mkroot.errors import ImageError, MkrootError

HELPER_TIMEOUT = 60  # seconds; a helper may ask the user for the key of a wallet
HELPER_LIMIT = 64 << 10  # bytes of a helper's answer
FILE_LIMIT = 4 << 20  # bytes of a file with logins
TOKEN_USER = "<token>"  # a helper's user name that says: the secret is an identity token (docker-credential-helpers)


class Credential(Struct, frozen=True, kw_only=True):
    """A user and a password, or an identity token. Neither is ever shown."""

    user: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return f"Credential({self.user!r})"

    def basic(self) -> str:
        """Return the value of a header `Authorization` (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class Credentials:
    """The credentials of a user. environ: names the files.

    Docker's file is asked first, and is the one that is written; then podman's.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        home = Path(environ.get("HOME") or os.path.expanduser("~"))
        self.path = Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        self._podman = [Path(named)] if (named := environ.get("REGISTRY_AUTH_FILE")) else []
        if not self._podman:
            if runtime := environ.get("XDG_RUNTIME_DIR"):
                self._podman.append(Path(runtime) / "containers" / "auth.json")
            self._podman.append(config / "containers" / "auth.json")

    def find(self, host: str, path: str = "") -> Credential | None:
        """Return what is kept for a host, or for the longest beginning of a repository's path; None where nothing is.

        Raises ImageError where a file is damaged or a helper fails.
        """
        for file in (self.path, *self._podman):
            document = _read(file)
            helper = _helper(document, host)
            if helper and (found := self._ask(helper, host)):
                return found
            entries = _entries(document, file)
            names = path.split("/") if path else []
            for n in range(len(names), -1, -1):
                entry = entries.get("/".join([host, *names[:n]]))
                if entry is not None and (kept := _decoded(entry, host, file)):
                    return kept
        return None

    def keep(self, host: str, credential: Credential) -> str:
        """Keep a credential and return where: a file's path, or a helper's name. Raises ImageError.

        The file is replaced in one step, mode 0600; what else it holds stays.
        """
        with self._changing() as document:
            if helper := _helper(document, host):
                value = {"ServerURL": host, "Username": credential.user, "Secret": credential.password}
                self._call(helper, "store", json.dumps(value), host)
                _entries(document, self.path).pop(host, None)
                return f"the credential helper `{helper}`"
            _entries(document, self.path)
            auths = document.setdefault("auths", {})
            for name in [n for n in auths if _bare(n) == host]:  # old spellings, too: one login a host
                del auths[name]
            pair = f"{credential.user}:{credential.password}".encode()
            auths[host] = {"auth": base64.b64encode(pair).decode()}
        return str(self.path)

    def drop(self, host: str) -> bool:
        """Forget a host's credential in Docker's file and its helper; tell whether there was one. Raises ImageError."""
        found = False
        with self._changing() as document:
            if helper := _helper(document, host):
                found = self._ask(helper, host) is not None
                if found:
                    self._call(helper, "erase", host, host)
            auths = document.get("auths")
            if isinstance(auths, dict):
                for name in [n for n in auths if _bare(n) == host]:
                    del auths[name]
                    found = True
        return found

    def _ask(self, helper: str, host: str) -> Credential | None:
        answer = self._call(helper, "get", host, host)
        if answer is None:
            return None
        try:
            found = json.loads(answer)
            user, secret = str(found["Username"]), str(found["Secret"])
        except (ValueError, KeyError, TypeError):
            raise ImageError(f"the credential helper `{helper}` answers with something else than a login") from None
        if not user and not secret:
            return None
        return Credential(token=secret) if user == TOKEN_USER else Credential(user=user, password=secret)

    def _call(self, helper: str, action: str, given: str, host: str) -> str | None:
        """Run a helper; None where it has nothing for the host. Its words may be secret, and are not shown."""
        program = f"docker-credential-{helper}"
        try:
            status, out, errors = _output([program, action], given, self._environ)
        except (OSError, ValueError) as e:
            raise ImageError(
                f"the credential helper `{program}` cannot be run: {getattr(e, 'strerror', None) or e}",
                where=str(self.path),
                hint="install it, or take `credsStore` and `credHelpers` out of the file",
            ) from None
        except subprocess.TimeoutExpired:
            raise ImageError(f"the credential helper `{program}` does not answer") from None
        if len(out) > HELPER_LIMIT:
            raise ImageError(f"the credential helper `{program}` answers with more than {HELPER_LIMIT} bytes")
        if status == 0:
            return out.decode("utf-8", "replace")
        if b"not found" in out + errors and action == "get":
            return None
        raise ImageError(
            f"the credential helper `{program}` failed to {action} the login for `{host}` (status {status})"
        )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Yield the file's document, and write what became of it; nobody else who changes it this way is lost."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            raise _unwritable(e, self.path) from e
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            document = _read(self.path)
            before = json.dumps(document)
            yield document
            if json.dumps(document) != before:
                _write(Path(os.path.realpath(self.path)), document)
        except MkrootError:
            raise
        except OSError as e:
            raise _unwritable(e, self.path) from e
        finally:
            os.close(folder)


def _output(command: list[str], given: str, environ: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Run a program; return its status, and of what it writes little more than HELPER_LIMIT.

    One that writes more is ended. Raises OSError, TimeoutExpired.
    """
    import selectors

    until = time.monotonic() + HELPER_TIMEOUT
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ)) as process:
        assert process.stdin and process.stdout and process.stderr
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(given.encode())
                process.stdin.close()
            out, errors = process.stdout.fileno(), process.stderr.fileno()
            found = {out: b"", errors: b""}
            with selectors.DefaultSelector() as selector:
                for fd in found:
                    selector.register(fd, selectors.EVENT_READ)
                while selector.get_map() and all(len(data) <= HELPER_LIMIT for data in found.values()):
                    if (left := until - time.monotonic()) <= 0:
                        raise subprocess.TimeoutExpired(command, HELPER_TIMEOUT)
                    for key, _ in selector.select(left):
                        data = os.read(key.fd, HELPER_LIMIT)
                        found[key.fd] += data
                        if not data:
                            selector.unregister(key.fd)
                if selector.get_map():
                    process.kill()
            return process.wait(max(0.0, until - time.monotonic())), found[out], found[errors]
        except BaseException:
            process.kill()
            raise


def _unwritable(error: OSError, path: Path) -> ImageError:
    return ImageError(
        f"the login cannot be kept: {error.strerror}", where=str(path), hint="name another folder in DOCKER_CONFIG"
    )


def _write(path: Path, document: dict[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as f:
            json.dump(document, f, indent="\t")  # as Docker writes it
            f.write("\n")
            f.flush()
            os.fsync(fd)
        os.rename(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            data = f.read(FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as e:
        raise ImageError(f"the file with logins cannot be read: {e.strerror}", where=str(path)) from e
    if len(data) > FILE_LIMIT:
        raise ImageError(f"the file with logins has more than {FILE_LIMIT} bytes", where=str(path))
    try:
        document = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ImageError("the file with logins is not a JSON object", where=str(path), hint="mend it, or move it away")
    return document


def _helper(document: Mapping[str, Any], host: str) -> str:
    """Return the name of the program that keeps the host's login, "" where the file itself does."""
    helpers = document.get("credHelpers")
    named = helpers.get(host) if isinstance(helpers, dict) else None
    found = named or document.get("credsStore") or ""
    if not isinstance(found, str) or "/" in found or "\0" in found:
        raise ImageError("the name of a credential helper in Docker's configuration is not a name")
    return found


def _bare(name: str) -> str:
    """Return a key without what old versions of Docker wrote around it: `https://HOST/v1/`."""
    if "://" in name:
        return name.partition("://")[2].partition("/")[0]
    return name.rstrip("/")


def _entries(document: dict[str, Any], file: Path) -> dict[str, Any]:
    auths = document.get("auths", {})
    if not isinstance(auths, dict):
        raise ImageError("`auths` is not an object", where=str(file), hint="mend the file, or move it away")
    return auths if all(_bare(n) == n for n in auths) else {_bare(n): e for n, e in auths.items()}


def _decoded(entry: object, host: str, file: Path) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Credential(token=token)
    if isinstance(auth := entry.get("auth"), str) and auth:
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if not colon:
            raise ImageError(
                f"the login for `{host}` is damaged", where=str(file), hint=f"log in again: `mkroot login {host}`"
            )
        return Credential(user=user, password=password.rstrip("\0"))
    if entry.get("username"):
        return Credential(user=str(entry["username"]), password=str(entry.get("password", "")))
    return None
