"""Enables, disables and masks systemd units: the links that `systemctl --root` makes and removes."""

from __future__ import annotations

import re

from mkroot.errors import Faults, MkrootError, RecipeError
from mkroot.recipe.model import Services
from mkroot.rootfs.recorder import Recorder, collecting
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.units import CONFIG, Unit, Units, expand, instance_of, instantiate, template_of
from mkroot.rootfs.users import nearest
from mkroot.tar.entry import SYMLINK, parent

START_LEVELS = "2345S"  # run levels in which a System V script is started (Policy 9.3.1)
KINDS = (("wanted_by", "wants"), ("required_by", "requires"), ("upheld_by", "upholds"))


def apply_services(recorder: Recorder, services: Services) -> None:
    """Enable, disable and mask the recipe's units; raises RecipeError, or Faults with all of them.

    A unit's System V script of the same name is switched with it, as Debian's systemctl does.
    """
    if not (services.enable or services.disable or services.mask):
        return
    units = Units(recorder.tree)
    if not units.present:
        first = next(k for k in ("enable", "disable", "mask") if getattr(services, k))
        raise RecipeError(
            "the image has no systemd, which alone starts services",
            where=f"config.services.{first}",
            hint="add `systemd-sysv` to `packages.include`, or leave `config.services` out of a container image",
        )
    faults: list[MkrootError] = []
    for verb, act in (("disable", _disable), ("enable", _enable), ("mask", _mask)):
        for i, name in enumerate(getattr(services, verb)):
            key = f"config.services.{verb}[{i}]"
            with collecting(faults), recorder.at(f"recipe: {key}", key=key):
                act(recorder, units, name, key)
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)


def _known(units: Units, name: str, key: str) -> Unit:
    unit = units.find(name)
    if unit is None:
        hint = _nearest(units, name) or "add the package that has it to `packages.include`"
        raise RecipeError(f"the image has no unit `{name}`", where=key, hint=hint)
    return unit


def _nearest(units: Units, name: str) -> str | None:
    """Return a hint that names the unit of the same kind whose name is nearest."""
    stem, _, kind = name.rpartition(".")
    hint = nearest(stem, (n.rpartition(".")[0] for n in units.names() if n.endswith("." + kind)))
    return hint and f"{hint[:-2]}.{kind}`?"


def _enable(recorder: Recorder, units: Units, name: str, key: str) -> None:
    if units.find(name) is None and (script := _script(recorder.tree, name)):
        if not _switch_script(recorder, script, on=True):
            raise RecipeError(f"`/etc/init.d/{script}` is in no run level", where=key)
        return
    unit = _known(units, name, key)
    if unit.masked:
        raise RecipeError(f"unit `{name}` is masked in the image", where=key)
    if unit.install.empty:
        raise RecipeError(
            f"unit `{name}` has no [Install] section, so there is nothing to enable",
            where=key,
            hint="it is started by other units when they need it; put a drop-in with WantedBy= into `config.files`",
        )
    todo, done = [unit], set()
    while todo:
        unit = todo.pop(0)
        if unit.name in done:
            continue
        done.add(unit.name)
        _links(recorder, unit, key)
        if script := _script(recorder.tree, unit.name):
            _switch_script(recorder, script, on=True)
        for also in unit.install.also:
            other = units.find(expand(also, unit.name))
            if other is None:
                recorder.note(f"unit `{unit.name}` wants `{also}` enabled with it, which is not in the image")
            elif not other.masked:
                todo.append(other)


def _links(recorder: Recorder, unit: Unit, key: str) -> None:
    """Make the links of one unit's [Install] section."""
    name = unit.name
    template = "@." in name
    if template and unit.install.default_instance:
        name = instantiate(name, expand(unit.install.default_instance, name))
    for field, suffix in KINDS:
        for target in getattr(unit.install, field):
            target = expand(target, name)
            if "@." in name and "@" not in target:
                raise RecipeError(
                    f"unit `{name}` is a template",
                    where=key,
                    hint=f"name an instance, such as `{instantiate(name, 'x')}`",
                )
            recorder.link(f"{CONFIG}/{target}.{suffix}/{name}", unit.shown)
    for alias in unit.install.alias:
        alias = instantiate(expand(alias, unit.name), instance_of(unit.name))
        if alias != unit.name and "/" not in alias and alias.rpartition(".")[2] == name.rpartition(".")[2]:
            recorder.link(f"{CONFIG}/{alias}", unit.shown)


def _disable(recorder: Recorder, units: Units, name: str, key: str) -> None:
    script = _script(recorder.tree, name)
    if script:
        _switch_script(recorder, script, on=False)
    if units.find(name) is None and script:
        return
    unit = _known(units, name, key)
    marked, todo = set(), [unit]
    while todo:
        unit = todo.pop()
        if unit.name not in marked:
            marked.add(unit.name)
            found = (units.find(expand(also, unit.name)) for also in unit.install.also)
            todo.extend(other for other in found if other is not None and not other.masked)
    _remove_links(recorder, marked)


def _remove_links(recorder: Recorder, marked: set[str]) -> None:
    """Remove the links below CONFIG that carry a marked name or lead to one; a removed alias is marked as well."""
    start = recorder.tree.resolve(CONFIG) + "/"
    changed = True
    while changed:
        changed = False
        links = sorted(p for p, n in recorder.tree.nodes.items() if p.startswith(start) and n.entry.kind == SYMLINK)
        for path in links:
            link, base = recorder.tree.nodes[path].entry.link, path.rpartition("/")[2]
            if link == "/dev/null":
                continue
            leads = link.rpartition("/")[2]
            # An instance's link leads to its template but goes by its own name alone.
            names = {base} if "@." in leads and "@." not in base else {base, leads}
            if names & marked or (template_of(base) != base and template_of(base) in marked):
                recorder.remove(path)
                changed = changed or base not in marked
                marked.add(base)
                folder = parent(path)
                if folder != start.rstrip("/") and not any(p.startswith(folder + "/") for p in recorder.tree.nodes):
                    recorder.remove(folder)


def _mask(recorder: Recorder, units: Units, name: str, key: str) -> None:
    unit = units.find(name)
    if unit is None:
        hint = _nearest(units, name)
        recorder.note(f"{key}: the image has no unit `{name}`" + (f"; {hint}" if hint else ""))
    place = f"{CONFIG}/{name}"
    node = recorder.tree.nodes.get(recorder.place(place))
    if node is not None and node.entry.kind != SYMLINK:
        raise RecipeError(f"/{place} is a file of the image; it cannot be masked", where=key, hint="disable it instead")
    recorder.link(place, "/dev/null")


def _script(tree: Tree, unit: str) -> str | None:
    """Return the name of the System V script that goes with a service, or None."""
    stem = unit.removesuffix(".service")
    return stem if unit.endswith(".service") and tree.exists(f"etc/init.d/{stem}") else None


def _switch_script(recorder: Recorder, script: str, *, on: bool) -> bool:
    """Turn a script's links into S or K links, as update-rc.d(8) enable and disable do; tell whether there is one."""
    old, new = ("K", "S") if on else ("S", "K")
    there = False
    for level in START_LEVELS:
        folder = recorder.tree.resolve(f"etc/rc{level}.d")
        for path in sorted(p for p in recorder.tree.nodes if p.startswith(folder + "/")):
            found = re.fullmatch(r"([SK])\d\d(.+)", path[len(folder) + 1 :])
            if found is None or found[2] != script:
                continue
            there = True
            if found[1] == old:
                recorder.remove(path)
                recorder.link(f"{folder}/{new}01{script}", f"../init.d/{script}")
    return there
