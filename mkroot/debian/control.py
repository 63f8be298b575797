"""What a package's control files must keep to before anything heeds them: the rules by which dpkg reads them.

They end up in the image's own dpkg database, where a line too many is another package, or another state of this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mkroot.debian.deb822 import parse_strict
from mkroot.debian.version import Version
from mkroot.errors import PackageError

NAME_LIMIT = 100  # bytes of a control file's name (MAXCONTROLFILENAME in dpkg's lib/dpkg/dpkg.h)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,127}")  # a package's; Policy 5.6.1 has it in lower case
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DATABASE = ("Status", "Conffiles", "Config-Version", "Triggers-Awaited", "Triggers-Pending")  # what dpkg itself notes
_DIRECTIVE = re.compile(r"(?:interest|activate)(?:-await|-noawait)?")  # deb-triggers(5)
_TRIGGER = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.:_-]{0,127}|/[!-~]*[!-.0-~]")  # one by name, and a path


def check_control_files(files: Mapping[str, bytes]) -> None:
    """Check what dpkg's database is made of: `control`, `conffiles` and `triggers`; raises PackageError naming it.

    files: the control archive's, by name.
    """
    for name, check in (("control", _control), ("conffiles", _conffiles), ("triggers", _triggers)):
        if name in files:
            data = files[name]
            if data and not data.endswith(b"\n"):
                raise PackageError(f"its control file `{name}` does not end with a newline")
            if b"\0" in data:
                raise PackageError(f"its control file `{name}` has a NUL in it")
            check(data.decode("utf-8", "surrogateescape"))


def _control(text: str) -> None:
    if re.search(r"^#", text, re.MULTILINE):
        raise PackageError("its control file has a comment, which dpkg does not read")
    found = parse_strict(text, "control")
    if len(found) != 1:
        raise PackageError(f"its control file has {len(found)} stanzas, not one")
    fields = {name: field.value for name, field in found[0].items()}
    for name in _DATABASE:
        if name.lower() in fields:
            raise PackageError(f"its control file has the field {name}, which only dpkg's database has")
    for name, form in (("Package", _NAME), ("Architecture", _ARCHITECTURE)):
        if not form.fullmatch(fields.get(name.lower(), "")):
            raise PackageError(f"its control file has no usable {name} field")
    Version(fields.get("version", ""))
    if fields.get("multi-arch", "no") not in ("no", "same", "foreign", "allowed"):
        raise PackageError("its control file has no usable Multi-Arch field")


def _conffiles(text: str) -> None:
    for line in text.split("\n"):
        path = line.removeprefix("remove-on-upgrade ")  # deb-conffiles(5)
        if line.strip() and not path.startswith("/"):
            raise PackageError(f"its conffile {line[:200]!r} is not an absolute path")


def _triggers(text: str) -> None:
    for line in text.split("\n"):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _DIRECTIVE.fullmatch(words[0]):
            raise PackageError(f"its triggers have a line that is no directive: {line[:200]!r}")
        # dpkg keeps a file of this name for each, so a path with `..` would be one elsewhere
        if not _TRIGGER.fullmatch(words[1]) or ".." in words[1].split("/"):
            raise PackageError(f"its triggers have the impossible name {words[1][:200]!r}")
