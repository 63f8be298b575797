"""The words of a recipe as types that exist only if they are valid.

Each has `parse`, which takes the text of the recipe and raises `Refused`; `pattern` is what an editor can check.
"""

from __future__ import annotations

import re
from typing import ClassVar, Self

ARCHITECTURES = (
    "amd64", "arm64", "armel", "armhf", "i386", "loong64", "mips64el", "mipsel", "ppc64el", "riscv64", "s390x",
)  # fmt: skip
_ELSEWHERE = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el", "i686": "i386"}
MAX_ID = 4_294_967_294  # 4294967295 is (uid_t)-1, which chown(2) takes as "leave it"
_DIGEST = r"@sha256:[0-9a-f]{64}"
_REPOSITORY = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
_HOST = r"(?:localhost|[A-Za-z0-9.-]+\.[A-Za-z0-9.-]+|[A-Za-z0-9.-]+:[0-9]+|\[[0-9a-fA-F:]+\](?::[0-9]+)?)"
_TAG = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
PACKAGE = r"[a-z0-9][a-z0-9+.-]+"


class Refused(ValueError):
    """The text is not what the key takes; `hint` says what would be."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


class Text(str):
    """Text of one form. `numbers`: a number without quotes is taken as well."""

    __slots__ = ()
    pattern: ClassVar[str] = r"[^\0]*"
    expected: ClassVar[str] = "text without a NUL character"
    numbers: ClassVar[bool] = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as this type; raises Refused."""
        if re.fullmatch(cls.pattern, text, re.ASCII | re.DOTALL) is None:
            raise Refused(f"expected {cls.expected}", cls.advice(text))
        return cls(text)

    @classmethod
    def advice(cls, text: str) -> str | None:
        """Return what may have been meant by a text that does not match."""
        return None


def _lower(cls: type[Text], text: str) -> str | None:
    lower = text.lower()
    return f"write `{lower}`" if lower != text and re.fullmatch(cls.pattern, lower, re.ASCII) else None


class Name(Text):
    """A recipe's name: an OCI repository name (distribution-spec, "Pulling manifests")."""

    __slots__ = ()
    pattern = r"(?=.{1,200}$)" + _REPOSITORY
    expected = "a name of lower-case letters and digits, with single `.`, `_`, `-` or `/` between them"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return _lower(cls, text)


class Reference(Text):
    """The reference of an image: `[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]`."""

    __slots__ = ()
    pattern = rf"(?=.{{1,512}}$)(?:{_HOST}/)?{_REPOSITORY}(?:{_TAG})?(?:{_DIGEST})?"
    expected = "an image reference such as `name:tag` or `host:5000/team/name:tag`"

    @classmethod
    def advice(cls, text: str) -> str | None:
        host, slash, rest = text.rpartition("/")
        name, colon, tag = rest.partition(":")
        offered = host.lower() + slash + name.lower() + colon + tag
        known = offered != text and re.fullmatch(cls.pattern, offered, re.ASCII)
        return f"names are lower case: write `{offered}`" if known else None


class Tag(Reference):
    """A reference under which an image is kept; a digest cannot be chosen."""

    __slots__ = ()
    pattern = rf"(?=.{{1,512}}$)(?:{_HOST}/)?{_REPOSITORY}(?:{_TAG})?"
    expected = "a name and a tag, such as `ubuntu:noble`"


class Parent(Reference):
    """The image to build on, or `none`."""

    __slots__ = ()
    expected = "`none` or an image reference such as `debian:trixie`"


class Suite(Text):
    """A suite or codename."""

    __slots__ = ()
    pattern = r"[a-z0-9][a-z0-9.+-]*"
    expected = "a suite such as `noble` or `trixie`, in lower case"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return _lower(cls, text)


class SourceSuite(Text):
    """A suite of a further repository; one that ends in `/` is a flat repository (sources.list(5), "exact path")."""

    __slots__ = ()
    pattern = r"(?!.*(?:^|/)\.\.(?:/|$))[A-Za-z0-9.][A-Za-z0-9.+_~/-]*"
    expected = "a suite such as `stable`, or a path that ends in `/` for a flat repository"


class Component(Text):
    """A component of an archive."""

    __slots__ = ()
    pattern = r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9.+_/-]*"
    expected = "a component such as `main` or `universe`"


class Arch(Text):
    """A Debian architecture (Policy 11.1)."""

    __slots__ = ()
    pattern = "|".join(ARCHITECTURES)
    expected = f"one of {', '.join(ARCHITECTURES)}"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return f"Debian calls it `{_ELSEWHERE[text.lower()]}`" if text.lower() in _ELSEWHERE else None


class Url(Text):
    """The address of a repository: http, https or file."""

    __slots__ = ()
    pattern = r"(?:https?://[^\s/?#]+(?:/[^\s?#]*)?|file:(?://)?/[^\s?#]*)"
    expected = "an address that begins with http://, https:// or file:///"

    @classmethod
    def parse(cls, text: str) -> Self:
        from urllib.parse import urlsplit

        url = super().parse(text)
        if not url.isprintable():
            raise Refused(f"expected {cls.expected}, without control characters")
        try:
            parts = urlsplit(url)
            fine = parts.scheme == "file" or (bool(parts.hostname) and parts.port != 0)
        except ValueError:
            fine = False
        if not fine:
            raise Refused("expected an address with a valid host and port")
        return url

    def bare(self) -> str:
        """Return the address without user and password."""
        from urllib.parse import urlsplit

        parts = urlsplit(self)
        path = parts.path.rstrip("/") or ("/" if parts.scheme == "file" else "")
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path).geturl()


class AptMirror(Text):
    """What an image's apt is pointed at: `used`, `none` or an address."""

    __slots__ = ()
    pattern = rf"used|none|{Url.pattern}"
    expected = "`used`, `none`, or an address that begins with http://, https:// or file:///"

    @classmethod
    def parse(cls, text: str) -> Self:
        from urllib.parse import urlsplit

        mirror = super().parse(text)
        if mirror not in ("used", "none") and "@" in urlsplit(Url.parse(text)).netloc:
            raise Refused("expected an address without user and password, for it becomes part of the image")
        return mirror


class Snapshot(Text):
    """A point in time of the archive."""

    __slots__ = ()
    pattern = r"[0-9]{8}T[0-9]{6}Z"
    expected = "a time such as 20261101T000000Z"

    @classmethod
    def parse(cls, text: str) -> Self:
        from datetime import datetime

        snapshot = super().parse(text)
        try:
            datetime.strptime(snapshot, "%Y%m%dT%H%M%SZ")
        except ValueError:
            raise Refused("expected a time that exists, such as 20261101T000000Z") from None
        return snapshot

    @classmethod
    def advice(cls, text: str) -> str | None:
        digits = re.sub(r"[^0-9]", "", text)
        offered = f"{digits[:8]}T{(digits[8:] + '000000')[:6]}Z"
        return f"write {offered}" if len(digits) in (8, 12, 14) else None


class Fingerprint(Text):
    """The fingerprint of an OpenPGP key, kept as upper-case hexadecimal digits without spaces."""

    __slots__ = ()
    pattern = r"(?:[0-9A-Fa-f] *){40}|(?:[0-9A-Fa-f] *){64}"
    expected = "the 40 or 64 hexadecimal digits of an OpenPGP fingerprint"

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(super().parse(text).replace(" ", "").upper())

    @classmethod
    def advice(cls, text: str) -> str | None:
        short = re.fullmatch(r"(?:0x)?[0-9A-Fa-f]{8,16}", text)
        return "a short key id can be forged; give the whole fingerprint" if short else None


class Id(Text):
    """The name of a further repository within the recipe."""

    __slots__ = ()
    pattern = r"[a-z0-9][a-z0-9_-]{0,62}"
    expected = "a short name of lower-case letters, digits, `-` and `_`"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return _lower(cls, text)


class PackageName(Text):
    """The name of a binary package, with an architecture where one is meant (Policy 5.6.7)."""

    __slots__ = ()
    pattern = PACKAGE + r"(?::[a-z0-9]+)?"
    expected = "the name of a package"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return _lower(cls, text)


class PackageGlob(Text):
    """A package name in which `*`, `?` and `[…]` stand for others (apt_preferences(5))."""

    __slots__ = ()
    pattern = r"[a-z0-9*?\[][a-z0-9+.*?\[\]!-]*(?::[a-z0-9]+)?"
    expected = "a package name; `*`, `?` and `[…]` may stand in it"


class AccountName(Text):
    """The name of a user or group, as useradd takes it."""

    __slots__ = ()
    pattern = r"[a-z_][a-z0-9_-]{0,30}\$?"
    expected = "a name of at most 32 lower-case letters, digits, `-` and `_` that begins with a letter or `_`"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return _lower(cls, text)


class Password(Text):
    """`locked`, `empty`, or what crypt(5) makes of a password."""

    __slots__ = ()
    pattern = r"locked|empty|\$[0-9a-z]+\$[!-9;-~]+"
    expected = "`locked`, `empty`, or a hash of the password such as `$6$…`"

    @classmethod
    def advice(cls, text: str) -> str | None:
        return "`openssl passwd -6` makes a hash; a recipe holds no password in the clear"


class Owner(Text):
    """The owner of a file: `user`, `user:group`, by name or number."""

    __slots__ = ()
    pattern = r"(?:[a-z_][a-z0-9_-]{0,30}\$?|[0-9]{1,10})(?::(?:[a-z_][a-z0-9_-]{0,30}\$?|[0-9]{1,10}))?"
    expected = "an owner such as `app`, `app:app` or `1000:1000`"
    numbers = True

    @classmethod
    def parse(cls, text: str) -> Self:
        owner = super().parse(text)
        if any(part.isdigit() and int(part) > MAX_ID for part in owner.split(":")):
            raise Refused(f"expected a user and group id of at most {MAX_ID}")
        return owner


class Hostname(Text):
    """A host name (hostname(7), at most 64 characters as gethostname(2) has room for)."""

    __slots__ = ()
    pattern = r"(?=.{1,64}$)[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*(?:\.[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*)*"
    expected = "a host name of letters, digits and `-`"


class TimeZone(Text):
    """A zone of the time zone database."""

    __slots__ = ()
    pattern = r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z][A-Za-z0-9_+-]*){0,2}"
    expected = "a time zone such as `Etc/UTC` or `Europe/Paris`"


class Locale(Text):
    """A locale."""

    __slots__ = ()
    pattern = r"(?:C|POSIX|[a-z]{2,3}(?:_[A-Z]{2})?)(?:\.[A-Za-z0-9-]+)?(?:@[A-Za-z]+)?"
    expected = "a locale such as `C.UTF-8` or `de_DE.UTF-8`"


class ImagePath(Text):
    """An absolute path in the image without `.`, `..`, doubled or trailing slashes; `/` itself is one."""

    __slots__ = ()
    pattern = r"/|(?:/(?!\.{1,2}(?:/|$))[^/\0\n]+)+"
    expected = "an absolute path in the image, without `.`, `..`, `//` or a slash at its end"


class PathGlob(ImagePath):
    """An absolute path in the image; `*` and `?` stand for parts of a name, `**` for any number of names."""

    __slots__ = ()
    expected = "an absolute path in the image; `*`, `?` and `**` may stand in it"


class LinkTarget(Text):
    """What a symbolic link points to."""

    __slots__ = ()
    pattern = r"[^\0\n]{1,4095}"
    expected = "the target of a link"


class Unit(Text):
    """A systemd unit; `.service` is added where no kind is named (systemctl(1))."""

    __slots__ = ()
    pattern = r"[A-Za-z0-9:_.\\@-]{1,255}"
    expected = "the name of a systemd unit such as `ssh` or `apt-daily.timer`"
    KINDS: ClassVar[tuple[str, ...]] = (
        ".service", ".socket", ".timer", ".target", ".path", ".mount", ".automount", ".swap", ".slice", ".device",
    )  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> Self:
        unit = super().parse(text)
        return unit if unit.endswith(cls.KINDS) else cls(unit + ".service")


class Variable(Text):
    """The name of an environment variable."""

    __slots__ = ()
    pattern = r"[A-Za-z_][A-Za-z0-9_.-]*"
    expected = "the name of an environment variable"


class Label(Text):
    """The key of an image label or annotation."""

    __slots__ = ()
    pattern = r"[!-~]{1,255}"
    expected = "a label's key: printable characters without spaces"


class RunUser(Text):
    """Whom an image's command runs as (image-spec, config.md, `User`)."""

    __slots__ = ()
    pattern = Owner.pattern
    expected = "a user such as `app`, `1000` or `app:app`"
    numbers = True


class OneLine(Text):
    """Text on one line."""

    __slots__ = ()
    pattern = r"[^\0-\x08\n-\x1f\x7f]*"
    expected = "text on one line"


class Gecos(Text):
    """A field of passwd(5): no colon, no line break."""

    __slots__ = ()
    pattern = r"[^\0-\x1f:\x7f]*"
    expected = "text on one line without a colon"
