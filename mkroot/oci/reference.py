"""Image references: `[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]` (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

import ipaddress
import re

from msgspec import Struct

from mkroot.errors import ImageError

DEFAULT_TAG = "latest"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_LIMIT = 255  # characters of host and path together


class Reference(Struct, frozen=True, order=True):
    """A valid image reference.

    host: registry with its port, or "" for an image of the local store. path: the repository. tag: never empty, unless
    a digest is given alone. digest: `sha256:…` or "".
    """

    host: str
    path: str
    tag: str
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference; the tag is `latest` where neither tag nor digest is given. Raises ImageError.

        The first component is a host where it has a dot or a colon or is `localhost`, as Docker decides it.
        """
        rest, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise _refused(text, "the digest after `@` is not sha256: and 64 hexadecimal digits")
        host = ""
        first, slash, after = rest.partition("/")
        if slash and (first == "localhost" or any(c in first for c in ".:")):
            host, rest = first, after
            if not _HOST.fullmatch(host):
                raise _refused(text, f"`{host}` is not a host")
            if int(host.rpartition(":")[2]) > 65535 if re.search(r":\d+$", host) else False:
                raise _refused(text, f"`{host}` has no valid port")
        path, colon, tag = rest.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _refused(text, "a tag is letters, digits, `_`, `.` and `-`, at most 128 of them")
        if not _PATH.fullmatch(path):
            lower = text.replace(path, path.lower(), 1) if path else ""
            if path != path.lower() and _PATH.fullmatch(path.lower()):
                raise _refused(text, "names are lower case", f"write `{lower}`")
            raise _refused(text, "a name is lower-case letters and digits with `.`, `_`, `-` or `/` between them")
        if len(host) + len(path) > _LIMIT:
            raise _refused(text, f"it is longer than {_LIMIT} characters")
        return cls(host, path, tag or ("" if digest else DEFAULT_TAG), digest)

    @property
    def name(self) -> str:
        """Host and path, without tag and digest."""
        return f"{self.host}/{self.path}" if self.host else self.path

    @property
    def tagged(self) -> str:
        """The reference without its digest: what tags an image in a layout; "" where there is no tag."""
        return f"{self.name}:{self.tag}" if self.tag else ""

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, which is spoken to in plain HTTP, as Docker does."""
        name = self.host.rpartition(":")[0] if re.search(r":\d+$", self.host) else self.host
        try:
            return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _refused(text: str, why: str, hint: str | None = None) -> ImageError:
    return ImageError(
        f"`{text}` is not an image reference: {why}", hint=hint or "write it as `name:tag` or `host:5000/team/name:tag`"
    )
