"""Sets host name, time zone and locale as the distribution's own tools would write them."""

from __future__ import annotations

import re

import msgspec

from mkroot.errors import RecipeError
from mkroot.recipe.model import Config
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.users import nearest
from mkroot.tar.entry import FILE, HARDLINK

ZONES = "usr/share/zoneinfo"


class Command(msgspec.Struct, frozen=True):
    """A program of the image that must be run in the sandbox, after the writes that it needs.

    argv: absolute path and arguments. origin: the recipe's key that asked for it. shown: what it does, for progress.
    """

    argv: tuple[str, ...]
    origin: str
    shown: str


def os_release(tree: Tree) -> dict[str, str]:
    """Return the fields of os-release(5), {} where the image has none."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        entry = tree.get(path)
        if entry is not None and entry.kind in (FILE, HARDLINK):
            pairs = (line.partition("=") for line in tree.read(path).decode("utf-8", "replace").splitlines())
            return {k: v.strip().strip("\"'") for k, sep, v in pairs if sep}
    return {}


def apply_hostname(recorder: Recorder, config: Config) -> None:
    """Write /etc/hostname, and /etc/hosts as Debian's installer does (Debian Reference, 5.1.1)."""
    if config.hostname is None:
        return
    name = config.hostname
    short = name.partition(".")[0]
    names = name if short == name else f"{name} {short}"
    with recorder.at("recipe: config.hostname", key="config.hostname"):
        recorder.write("etc/hostname", f"{name}\n".encode(), 0o644)
        recorder.write(
            "etc/hosts",
            (
                f"127.0.0.1\tlocalhost\n127.0.1.1\t{names}\n\n"
                "# The following lines are desirable for IPv6 capable hosts\n"
                "::1     localhost ip6-localhost ip6-loopback\n"
                "ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
            ).encode(),
            0o644,
        )


def apply_timezone(recorder: Recorder, config: Config) -> None:
    """Link /etc/localtime to a zone of the image, and keep /etc/timezone in step where the image has that file."""
    if config.timezone is None:
        return
    zone, key, tree = config.timezone, "config.timezone", recorder.tree
    entry = tree.get(f"{ZONES}/{zone}")
    if entry is None or entry.kind not in (FILE, HARDLINK):
        if zone in ("Etc/UTC", "UTC") and not tree.exists(f"{ZONES}/Etc/UTC"):
            # Without the database the C library takes UTC; an unresolved link would say the same and be in the way.
            recorder.note("time zone Etc/UTC needs no tzdata; /etc/localtime is left out")
            return
        if not tree.exists(f"{ZONES}/Etc/UTC"):
            raise RecipeError(
                f"the image has no time zone database, so `{zone}` cannot be set",
                where=key,
                hint="add `tzdata` to `packages.include`",
            )
        zones = [p[len(ZONES) + 1 :] for p in tree.nodes if p.startswith(ZONES + "/")]
        legacy = "add `tzdata-legacy` to `packages.include` if it is an old name"
        raise RecipeError(f"the image's tzdata has no zone `{zone}`", where=key, hint=nearest(zone, zones) or legacy)
    with recorder.at(f"recipe: {key}", key=key):
        recorder.link("etc/localtime", f"/{ZONES}/{zone}")
        if tree.exists("etc/timezone") or writes_timezone_file(tree):  # an old one must not contradict the link
            recorder.write("etc/timezone", f"{zone}\n".encode(), 0o644)


def writes_timezone_file(tree: Tree) -> bool:
    """Tell whether the image's tzdata keeps /etc/timezone; Debian 13's no longer does."""
    return not _newer(tree, debian=13, ubuntu=(25, 4))


def _newer(tree: Tree, *, debian: int, ubuntu: tuple[int, int]) -> bool:
    """Tell whether the image is of this release or a later one; one without a number (testing) is later."""
    fields = os_release(tree)
    numbers = [int(n) for n in re.findall(r"\d+", fields.get("VERSION_ID", ""))]
    if fields.get("ID") == "ubuntu":
        return not numbers or tuple(numbers[:2]) >= ubuntu
    return not numbers or numbers[0] >= debian


def apply_locale(recorder: Recorder, config: Config) -> list[Command]:
    """Set LANG as update-locale(8) would; return the commands that must be run in the image (locale-gen)."""
    if config.locale is None:
        return []
    name, key, tree = config.locale, "config.locale", recorder.tree
    commands: list[Command] = []
    with recorder.at(f"recipe: {key}", key=key):
        if not _built(tree, name):
            commands.append(_generate(recorder, name, key))
        conf, default = "etc/locale.conf", "etc/default/locale"
        if tree.get(default, follow=False) is None and _newer(tree, debian=13, ubuntu=(25, 4)):
            recorder.link(default, "../locale.conf")
        place = conf if tree.resolve(default) == tree.resolve(conf) else default
        old = tree.read(place).decode("utf-8", "replace").splitlines() if tree.exists(place) else []
        kept = [line for line in old if not re.match(r"\s*(LANG|LC_ALL|LANGUAGE)=", line)]
        lines = kept or ["#  File generated by update-locale"]
        recorder.write(place, "\n".join([*lines, f"LANG={name}", ""]).encode(), 0o644)
    return commands


def _codeset(name: str) -> str:
    """Return a locale's name as glibc normalises it: `de_DE.UTF-8` becomes `de_DE.utf8`."""
    head, at, modifier = name.partition("@")
    language, dot, codeset = head.partition(".")
    return language + dot + re.sub(r"[^a-z0-9]", "", codeset.lower()) + at + modifier


def _built(tree: Tree, name: str) -> bool:
    if name in ("C", "POSIX"):
        return True
    return any(tree.exists(f"usr/lib/locale/{n}/LC_CTYPE") for n in (name, _codeset(name)))


def _generate(recorder: Recorder, name: str, key: str) -> Command:
    """Put a locale into /etc/locale.gen; return the command that builds it."""
    tree = recorder.tree
    if not tree.exists("usr/share/i18n/SUPPORTED") or not tree.exists("usr/sbin/locale-gen"):
        if _codeset(name) == "C.utf8":
            raise RecipeError("the image has no C.UTF-8", where=key, hint="add `libc-bin` to `packages.include`")
        raise RecipeError(
            f"the image cannot build the locale `{name}`", where=key, hint="add `locales` to `packages.include`"
        )
    supported = [
        line.strip()
        for line in tree.read("usr/share/i18n/SUPPORTED").decode("utf-8", "replace").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    wanted = next((s for s in supported if s.split()[0] == name), None)
    if wanted is None:
        hint = nearest(name, (s.split()[0] for s in supported))
        raise RecipeError(f"glibc has no locale `{name}`", where=key, hint=hint)
    old = tree.read("etc/locale.gen").decode("utf-8", "replace").splitlines() if tree.exists("etc/locale.gen") else []
    found, lines = False, []
    for line in old:
        if " ".join(line.lstrip("# \t").split()) == wanted:
            found, line = True, wanted
        lines.append(line)
    if not found:
        lines.append(wanted)
    recorder.write("etc/locale.gen", "\n".join([*lines, ""]).encode(), 0o644)
    return Command(("/usr/sbin/locale-gen",), f"recipe: {key}", f"build the locale {name}")
