"""systemd units of an image: where they are found, and what their [Install] section says."""

from __future__ import annotations

import re

import msgspec

from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import FILE, HARDLINK, SYMLINK

CONFIG = "etc/systemd/system"
SEARCH = (CONFIG, "usr/local/lib/systemd/system", "usr/lib/systemd/system")  # systemd.unit(5), less what /run holds


class Install(msgspec.Struct, frozen=True):
    """An [Install] section (systemd.unit(5)): names as written, specifiers not expanded."""

    wanted_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    upheld_by: tuple[str, ...] = ()
    alias: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    default_instance: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing that could be enabled."""
        return not (self.wanted_by or self.required_by or self.upheld_by or self.alias or self.also)


class Unit(msgspec.Struct, frozen=True):
    """A unit file of the image.

    name: as asked for, without the detour of an alias. path: of the file. shown: the path that links to it name.
    masked: it leads to /dev/null.
    """

    name: str
    path: str
    shown: str
    install: Install
    masked: bool = False


class Units:
    """The unit files of a tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.present = any(tree.exists(p) for p in ("usr/lib/systemd/systemd", "lib/systemd/systemd"))
        # Before version 255 Debian's systemd looks into /lib/systemd first and names the files there.
        found = (re.search(r"/libsystemd-shared-(\d+)", p) for p in tree.nodes if "/libsystemd-shared-" in p)
        self.old = any(int(m[1]) < 255 for m in found if m)

    def names(self) -> list[str]:
        """Return the names of all unit files, sorted."""
        found = set()
        for folder in SEARCH:
            start = self.tree.resolve(folder) + "/"
            found |= {p[len(start) :] for p in self.tree.nodes if p.startswith(start) and "/" not in p[len(start) :]}
        return sorted(n for n in found if "." in n)

    def find(self, name: str) -> Unit | None:
        """Return the unit of that name, through an alias too; None where the image has none."""
        return self._find(name, 0)

    def _find(self, name: str, depth: int) -> Unit | None:
        template = template_of(name)
        for wanted in (name, template) if template != name else (name,):
            for folder in SEARCH:
                path = f"{self.tree.resolve(folder)}/{wanted}"
                node = self.tree.nodes.get(path)
                if node is None:
                    continue
                if node.entry.kind == SYMLINK:
                    if node.entry.link == "/dev/null":
                        return Unit(name, path, self._shown(path), Install(), masked=True)
                    target = self._target(path)
                    base = target.rpartition("/")[2]
                    if base != wanted and depth < 8 and self._is_unit(target):  # an alias: the unit is another one
                        return self._find(instantiate(base, instance_of(name)), depth + 1)
                    path = target
                    node = self.tree.nodes.get(path)
                if node is not None and node.entry.kind in (FILE, HARDLINK):
                    return Unit(name, path, self._shown(path), self._install(path, wanted, name))
        return None

    def _target(self, path: str) -> str:
        return self.tree.resolve(path)

    def _is_unit(self, path: str) -> bool:
        return any(path.startswith(self.tree.resolve(folder) + "/") for folder in SEARCH)

    def _shown(self, path: str) -> str:
        return "/" + (path.removeprefix("usr/") if self.old and path.startswith("usr/lib/systemd/") else path)

    def _install(self, path: str, wanted: str, name: str) -> Install:
        """Read the [Install] section of a unit file and of its drop-ins, in the order of their names."""
        dropins: dict[str, str] = {}
        for stem in dict.fromkeys((wanted, name)):
            for folder in reversed(SEARCH):
                start = f"{self.tree.resolve(folder)}/{stem}.d/"
                dropins.update(
                    (p[len(start) :], p) for p in sorted(self.tree.nodes) if p.startswith(start) and p.endswith(".conf")
                )
        values: dict[str, list[str]] = {}
        for place in (path, *(dropins[n] for n in sorted(dropins))):
            entry = self.tree.get(place)
            if entry is not None and entry.kind in (FILE, HARDLINK):
                _read_install(self.tree.read(place).decode("utf-8", "replace"), values)

        def words(key: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(values.get(key, ())))

        return Install(
            words("WantedBy"), words("RequiredBy"), words("UpheldBy"), words("Alias"), words("Also"),
            (words("DefaultInstance") or ("",))[-1],
        )  # fmt: skip


def _read_install(text: str, values: dict[str, list[str]]) -> None:
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == "Install" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            words = value.split()
            if words:
                values.setdefault(key.strip(), []).extend(words)
            else:
                values[key.strip()] = []  # an empty assignment takes back what was said before


def template_of(name: str) -> str:
    """Return the template of an instance's name: `getty@.service` of `getty@tty1.service`; else the name itself."""
    stem, at, rest = name.partition("@")
    return f"{stem}@.{rest.rpartition('.')[2]}" if at and "." in rest else name


def instance_of(name: str) -> str:
    """Return the instance that a name has between `@` and its kind; "" for none."""
    _, at, rest = name.partition("@")
    return rest.rpartition(".")[0] if at else ""


def instantiate(template: str, instance: str) -> str:
    """Return a template's name with an instance in it; other names stay."""
    if instance and "@." in template:
        return template.replace("@.", f"@{instance}.", 1)
    return template


def expand(word: str, name: str) -> str:
    """Expand the specifiers that a file alone decides (systemd.unit(5), SPECIFIERS) in a word of `name`'s [Install]."""
    prefix = name.partition("@")[0] if "@" in name else name.rpartition(".")[0]
    values = {
        "n": name, "N": name.rpartition(".")[0], "p": prefix, "P": _unescaped(prefix), "i": instance_of(name),
        "I": _unescaped(instance_of(name)), "j": prefix.rpartition("-")[2], "%": "%",
    }  # fmt: skip
    return re.sub(r"%(.)", lambda m: values.get(m[1], m[0]), word)


def _unescaped(text: str) -> str:
    text = text.replace("-", "/")
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text)
