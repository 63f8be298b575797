"""Leaves parts of packages out of a root: documentation, manual pages, translations and paths of the recipe.

The image's own dpkg is told (dpkg(1), --path-exclude), so that later installations leave out the same. `dpkg --verify`
does not ask these filters, so what is gone is also taken out of the packages' lists, md5sums and conffiles: it stays
clean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from mkroot.recipe.model import Trim
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import Layer
from mkroot.store.unpack import INFO, control_fields, info_name, merged
from mkroot.tar.entry import DIR, SYMLINK, parent

FILTER = "etc/dpkg/dpkg.cfg.d/mkroot-trim"
COPYRIGHT = "/usr/share/doc/*/copyright"  # Policy 12.5: every package has one
DOCS = ("doc", "doc-base", "info", "gtk-doc", "help", "lintian", "linda")
SECTIONS = re.compile(r"usr/share/man/man[1-9]")  # stay as empty folders: update-alternatives makes links there
TRANSLATED_MAN = ("??/*", "???/*", "??_*", "???_*", "??.*", "??@*")  # below /usr/share/man, whose sections are man1 …
STATUS = "var/lib/dpkg/status"


class Rule(msgspec.Struct, frozen=True):
    """One line of the filter; the last rule that matches a path decides.

    include: keep what matches. matches: asks an absolute path. pattern: the same for dpkg, "" where dpkg cannot say it.
    key: the recipe's key that it comes from.
    """

    include: bool
    matches: Callable[[str], object]
    pattern: str
    key: str


class Trimmed(msgspec.Struct, frozen=True):
    """What trimming did.

    origins: for each path removed or written, the recipe's key. saved: bytes of content that went.
    notes: what the user should know.
    """

    origins: dict[str, str]
    saved: int = 0
    notes: tuple[str, ...] = ()


def trim(tree: Tree, wanted: Trim) -> Trimmed:
    """Remove from a tree what the recipe's `trim` leaves out, and tell dpkg's database."""
    rules = filter_rules(wanted)
    if not rules:
        return Trimmed({})
    recorder = Recorder(tree)
    before = {p: tree.resolve(p) for p, n in tree.nodes.items() if n.entry.kind == SYMLINK}
    gone = _excluded(tree, rules)
    saved = sum(tree.nodes[p].entry.size for p in gone)
    owners = [layer for layer in tree.layers if layer.control and any(e.path in gone for e in layer.entries)]
    fine = {p for p, target in before.items() if p not in gone and (target in tree.nodes or target == "")}
    for path in sorted(gone, key=lambda p: (-p.count("/"), p)):  # what is in a folder goes before it
        del tree.nodes[path]
        recorder.origins[path] = f"recipe: {gone[path]}"
    with recorder.at("recipe: trim"):
        _update_database(recorder, owners, gone)
        if tree.exists("usr/bin/dpkg"):
            recorder.write(FILTER, _filter_file(rules), 0o644, 0, 0)
        _dangling(recorder, {p: before[p] for p in sorted(fine) if before[p] in gone})
    return Trimmed(recorder.origins, saved, tuple(recorder.notes))


def filter_rules(wanted: Trim) -> list[Rule]:
    """Return the rules that a recipe's `trim` means, in the order in which dpkg would read them."""
    found: list[Rule] = []
    if wanted.docs:
        found += [_dpkg_rule(False, f"/usr/share/{name}/*", "trim.docs") for name in DOCS]
    if wanted.man:
        found.append(_dpkg_rule(False, "/usr/share/man/*", "trim.man"))
    if wanted.locales is not None:
        key = "trim.locales"
        found.append(_dpkg_rule(False, "/usr/share/locale/*", key))
        if not wanted.man:
            found += [_dpkg_rule(False, f"/usr/share/man/{tail}", key) for tail in TRANSLATED_MAN]
        found.append(_dpkg_rule(True, "/usr/share/locale/locale.alias", key))
        for name in dict.fromkeys(form for locale in wanted.locales for form in forms(locale)):
            found.append(_dpkg_rule(True, f"/usr/share/locale/{name}/*", key))
            if not wanted.man:
                found.append(_dpkg_rule(True, f"/usr/share/man/{name}/*", key))
    found += [_path_rule(glob, f"trim.paths[{i}]") for i, glob in enumerate(wanted.paths)]
    if wanted.docs or wanted.paths:
        found.append(_dpkg_rule(True, COPYRIGHT, "trim"))
    return found


def forms(locale: str) -> list[str]:
    """Return the folders in which gettext looks for a locale's translations: `de_DE.UTF-8`, `de_DE`, `de`, …"""
    head, at, modifier = locale.partition("@")
    territory = head.partition(".")[0]
    language = territory.partition("_")[0]
    if language in ("C", "POSIX"):
        return []
    names = (locale, head, territory + at + modifier, territory, language + at + modifier, language)
    return list(dict.fromkeys(names))


def _dpkg_rule(include: bool, pattern: str, key: str) -> Rule:
    """Return a rule in dpkg's own terms: `*` and `?` match slashes as well (fnmatch(3) without flags)."""
    regex = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return Rule(include, re.compile(regex, re.DOTALL).fullmatch, pattern, key)


def _path_rule(glob: str, key: str) -> Rule:
    """Return the rule for a glob of `trim.paths`; a folder that matches goes with all that is in it."""
    out, pattern, i = [], "", 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out.append("(?:.*/)?")
            i += 3
        elif glob.startswith("**", i):
            out.append(".*")
            i += 2
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}.get(glob[i], re.escape(glob[i])))
            i += 1
    stem = glob.removesuffix("**")
    if not re.search(r"[*?\[\\]", stem) and (stem == glob or stem.endswith("/")):
        pattern = stem if stem == glob else stem + "*"
    return Rule(False, re.compile("".join(out) + "(?:/.*)?", re.DOTALL).fullmatch, pattern, key)


def _excluded(tree: Tree, rules: list[Rule]) -> dict[str, str]:
    """Return the paths that go, each with the key of the rule; folders only where nothing is left in them."""
    gone: dict[str, str] = {}
    folders: dict[str, str] = {}
    live: set[str] = set()
    for path, node in tree.nodes.items():
        shown = "/" + path
        rule = next((r for r in reversed(rules) if r.matches(shown)), None)
        if rule is None or rule.include:
            if node.entry.kind != DIR:
                _keep(path, live)
        elif node.entry.kind == DIR:
            folders[path] = rule.key
        else:
            gone[path] = rule.key
    for path in [p for p in gone if p.startswith("usr/share/doc/") and tree.nodes[p].entry.kind == SYMLINK]:
        # A package's folder may be a link to another's, which has its copyright file (Policy 12.5).
        target = tree.resolve(path)
        if gone[path] == "trim.docs" and (target in live or f"{target}/copyright" in live):
            del gone[path]
            _keep(path, live)
    for path, key in folders.items():
        if path not in live and SECTIONS.fullmatch(path) is None:
            gone[path] = key
    return gone


def _keep(path: str, live: set[str]) -> None:
    while path and path not in live:
        live.add(path)
        path = parent(path)


def _update_database(recorder: Recorder, packages: Iterable[Layer], gone: dict[str, str]) -> None:
    """Take what is gone out of the packages' lists and md5sums, and out of the conffiles in the status file."""
    tree = recorder.tree
    conffiles: set[str] = set()
    for package in packages:
        conffiles |= {f" {shown} " for shown, _ in package.conffiles if merged(shown.lstrip("/")) in gone}
        fields = control_fields(package.control["control"])
        stem = f"{INFO}/{info_name(fields)}"
        _drop_lines(recorder, f"{stem}.list", 1, gone)  # "/path"
        static = f"var/lib/dpkg/status.d/{fields['package']}"
        for path in (f"{stem}.md5sums", f"{static}.md5sums", f"{static}:{fields['architecture']}.md5sums"):
            _drop_lines(recorder, path, 34, gone)  # 32 digits, two spaces, "path"
    if conffiles and tree.exists(STATUS):
        lines = tree.read(STATUS).decode("utf-8", "surrogateescape").splitlines(keepends=True)
        kept = [ln for ln in lines if not (ln.startswith(" /") and any(ln.startswith(c) for c in conffiles))]
        kept = [
            ln
            for i, ln in enumerate(kept)
            if ln != "Conffiles:\n" or (i + 1 < len(kept) and kept[i + 1].startswith(" "))
        ]
        recorder.write(STATUS, "".join(kept).encode("utf-8", "surrogateescape"))


def _drop_lines(recorder: Recorder, path: str, start: int, gone: dict[str, str]) -> None:
    """Remove from a file the lines that name a path that is gone; `start` is where a name begins in a line."""
    if not recorder.tree.exists(path):
        return
    lines = recorder.tree.read(path).decode("utf-8", "surrogateescape").splitlines(keepends=True)
    kept = [line for line in lines if merged(line[start:].rstrip("\n").removeprefix("./")) not in gone]
    if len(kept) != len(lines):
        recorder.write(path, "".join(kept).encode("utf-8", "surrogateescape"))


def _filter_file(rules: list[Rule]) -> bytes:
    lines = ["# What mkroot left out of this image; delete this file to have it installed again."]
    lines += [f"path-{'include' if r.include else 'exclude'}={r.pattern}" for r in rules if r.pattern]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _dangling(recorder: Recorder, links: dict[str, str]) -> None:
    """Remove alternatives whose file is gone, as update-alternatives(1) would; tell of other links left dangling."""
    left = []
    for path in links:
        if path.startswith("etc/alternatives/"):
            recorder.remove(path)
        else:
            left.append("/" + path)
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        recorder.note(f"links that lead to nothing after the trim: {', '.join(left[:5])}{more}")
