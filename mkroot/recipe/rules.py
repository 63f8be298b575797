"""What the keys of a recipe demand of each other, as far as it can be told without the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mkroot.errors import RecipeError
from mkroot.recipe.booting import Boot
from mkroot.recipe.convert import BAD
from mkroot.recipe.document import Path, Place, spelled
from mkroot.recipe.model import Recipe
from mkroot.recipe.wants import LocalPath, Want

T = TypeVar("T")
# Codenames that only one of the two has ever used; a suite that is not listed proves nothing.
CODENAMES = {
    "debian": ("bullseye", "bookworm", "trixie", "forky", "duke", "sid", "stable", "oldstable", "testing", "unstable"),
    "ubuntu": ("xenial", "bionic", "focal", "jammy", "mantic", "noble", "oracular", "plucky", "questing", "resolute"),
}
SERIAL = ("ttyS", "ttyAMA", "hvc")  # consoles that are read from outside of a machine
MOST = {"gzip": 12, "zstd": 19, "zstd:chunked": 19}  # the highest level of each compression
BOOTING = frozenset({"bootfs", "uki", "disk.raw", "disk.qcow2", "iso"})


def good(items: Sequence[T]) -> Iterator[tuple[int, T]]:
    """Yield the items that were not refused, each with its number in the list."""
    return ((i, item) for i, item in enumerate(items) if item is not BAD)


class Rules:
    """The faults between keys of one recipe. `places` has every key that was given."""

    def __init__(self, recipe: Recipe, places: dict[Path, Place]) -> None:
        self.recipe = recipe
        self.places = places
        self.faults: list[RecipeError] = []
        for rule in (
            self._sources, self._packages, self._accounts, self._files, self._services, self._hooks, self._image,
            self._boot, self._disk, self._outputs,
        ):  # fmt: skip
            rule()

    def fault(self, path: Path, what: str, hint: str | None = None) -> None:
        where = next(self.places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.places)
        self.faults.append(RecipeError(f"`{spelled(path)}`: {what}", where=str(where), hint=hint))

    def _once(self, items: Iterable[tuple[Path, object]], what: Callable[[object], str], hint: str) -> None:
        first: dict[object, Path] = {}
        for path, value in items:
            if value in first:
                place = self.places.get(first[value]) or self.places[first[value][:-1]]
                self.fault(path, f"{what(value)}, first in {place}", hint)
            else:
                first[value] = path

    def _sources(self) -> None:
        recipe = self.recipe
        for distro, codenames in CODENAMES.items():
            if distro != recipe.distro and ("distro",) in self.places and recipe.suite in codenames:
                self.fault(("suite",), f"`{recipe.suite}` is a suite of {distro.title()}", f"write `distro: {distro}`")
        sources = list(good(recipe.sources))
        self._once(
            ((("sources", i, "id"), s.id) for i, s in sources),
            lambda value: f"a second source `{value}`",
            "each source has a name of its own",
        )
        for i, source in sources:
            path: Path = ("sources", i)
            if source.trusted and source.key is not None:
                self.fault((*path, "trusted"), "a source is trusted without a signature or has a key, not both")
            if source.id == recipe.distro:
                self.fault((*path, "id"), f"`{source.id}` is the distribution's own name", "give it another name")
            flat = [suite for _, suite in good(source.suites) if suite.endswith("/")]
            if flat and (*path, "components") in self.places:
                self.fault((*path, "components"), f"the flat repository `{flat[0]}` has no components", "leave it out")
        known = [recipe.distro, *(s.id for _, s in sources)]
        for i, pin in good(recipe.pins):
            if pin.source not in known and len(sources) == len(recipe.sources):
                names = ", ".join(f"`{name}`" for name in known)
                self.fault(("pins", i, "source"), f"no source is called `{pin.source}`", f"known are {names}")
            if pin.priority == 0:
                self.fault(("pins", i, "priority"), "the priority 0 has no defined meaning", "see apt_preferences(5)")

    def _packages(self) -> None:
        packages = self.recipe.packages
        wants = [(i, want) for i, want in good(packages.include) if want.file is None]
        first: dict[tuple[str, str], Want] = {}
        for i, want in wants:
            if want.version or want.suite:
                other = first.setdefault((want.name, want.arch), want)
                if other is not want:
                    self.fault(("packages", "include", i), f"`{want}` and `{other}` ask for one package in two ways")
        excluded = {name for _, name in good(packages.exclude)}
        for i, want in wants:
            full = f"{want.name}:{want.arch}" if want.arch else want.name
            if want.name in excluded or full in excluded:
                self.fault(("packages", "include", i), f"`{want.name}` is excluded as well", "leave out one of the two")
        if self.recipe.boot is not None and self.recipe.boot.kernel in excluded:
            self.fault(("boot", "kernel"), f"`{self.recipe.boot.kernel}` is excluded under `packages`")

    def _accounts(self) -> None:
        config = self.recipe.config
        groups, users = list(good(config.groups)), list(good(config.users))
        own = "a name or number belongs to one account"
        self._once(
            ((("config", "groups", i, "name"), g.name) for i, g in groups), lambda v: f"a second group `{v}`", own
        )
        self._once(
            ((("config", "groups", i, "gid"), g.gid) for i, g in groups if g.gid is not None),
            lambda v: f"a second group with the id {v}",
            own,
        )
        self._once(((("config", "users", i, "name"), u.name) for i, u in users), lambda v: f"a second user `{v}`", own)
        self._once(
            ((("config", "users", i, "uid"), u.uid) for i, u in users if u.uid is not None),
            lambda v: f"a second user with the id {v}",
            own,
        )
        for i, user in users:
            if user.name == "root" and user.uid not in (None, 0):
                self.fault(("config", "users", i, "uid"), "root has the id 0")
            elif user.uid == 0 and user.name != "root":
                self.fault(("config", "users", i, "uid"), "the id 0 is root's")
        for i, group in groups:
            if (group.name == "root") != (group.gid == 0) and group.gid is not None:
                self.fault(("config", "groups", i, "gid"), "the id 0 is root's, and root has no other")

    def _files(self) -> None:
        files = list(good(self.recipe.config.files))
        self._once(
            ((("config", "files", i, "path"), f.path) for i, f in files),
            lambda value: f"`{value}` is made a second time",
            "a path has one content; with `extends`, take the inherited one out by `-PATH`",
        )
        for i, file in files:
            path: Path = ("config", "files", i)
            kinds = [name for name in ("content", "from", "link") if (*path, name) in self.places]
            kinds += ["directory"] if file.directory else []
            if len(kinds) != 1:
                said = " and ".join(f"`{name}`" for name in kinds) or "nothing"
                self.fault(path, f"expected one of `content`, `from`, `link`, `directory: true`, not {said}")
            if file.path == "/" and file.source is None:
                self.fault((*path, "path"), "only a tree (`from`) can be put on `/`")
            if file.link is not None and file.mode is not None:
                self.fault((*path, "mode"), "a symbolic link has no mode of its own")

    def _services(self) -> None:
        services = self.recipe.config.services
        enabled = {unit for _, unit in good(services.enable)}
        for i, unit in good(services.disable):
            if unit in enabled:
                self.fault(
                    ("config", "services", "disable", i), f"`{unit}` is enabled as well", "leave out one of the two"
                )
        for i, unit in good(services.mask):
            if unit in enabled:
                self.fault(
                    ("config", "services", "mask", i), f"`{unit}` is enabled as well", "leave out one of the two"
                )

    def _hooks(self) -> None:
        for i, hook in good(self.recipe.hooks):
            if hook.at == "configured" and self.recipe.configure != "scripts":
                self.fault(
                    ("hooks", i, "at"),
                    f"with `configure: {self.recipe.configure}` nothing is configured by scripts",
                    "`at: final` runs in the finished tree",
                )

    def _image(self) -> None:
        image = self.recipe.image
        if image.parent != "none" and self.recipe.configure != "scripts" and self.recipe.packages.include:
            self.fault(
                ("configure",), "on a parent its own dpkg installs packages, and runs their scripts", "leave it out"
            )
        if image.layers.by == "single" and ("image", "layers", "budget") in self.places:
            self.fault(("image", "layers", "budget"), "a single layer needs no budget", "write `by: source`")
        if image.layers.single_stream and image.compression == "none":
            self.fault(("image", "layers", "single-stream"), "layers that are not compressed have no streams")
        if image.layers.single_stream and image.compression == "zstd:chunked":
            self.fault(
                ("image", "layers", "single-stream"),
                "a `zstd:chunked` layer has each file in a stream of its own",
                "leave it out, or write `compression: zstd`",
            )
        if image.level is not None:
            self._level(image.compression, image.level)

    def _level(self, compression: str, level: int) -> None:
        path: Path = ("image", "compression-level")
        most = MOST.get(compression)
        if most is None:
            self.fault(path, "layers that are not compressed have no level", "write `compression: gzip`, or `zstd`")
        elif level > most:
            self.fault(path, f"{compression} has the levels 1 to {most}, not {level}", "`best` is the highest")

    def _boot(self) -> None:
        boot = self.recipe.boot
        if boot is None:
            if ("test",) in self.places:
                self.fault(("test",), "nothing boots that could be tested", "say how under `boot`")
            return
        if boot.firmware == "bios" and boot.loader in ("systemd-boot", "uki"):
            self.fault(("boot", "loader"), f"`{boot.loader}` needs `firmware: uefi`", "`grub` starts under BIOS too")
        if boot.initramfs == "distro" and self.recipe.configure != "scripts":
            self.fault(("boot", "initramfs"), "the distribution's tool needs `configure: scripts`")
        if boot.initramfs == "none" and self.recipe.disk.overlay:
            self.fault(
                ("boot", "initramfs"),
                "an overlay over the root is made by an initramfs",
                "write `disk: {overlay: false}`, or `initramfs: mkroot`",
            )
        if boot.initramfs != "mkroot" and "iso" in self.recipe.outputs:
            self.fault(("boot", "initramfs"), "the root of an ISO is found by mkroot's own initramfs", "write `mkroot`")
        if boot.rootfs != "own":
            self._booted_image(boot)
        self._console(boot.cmdline)

    def _booted_image(self, boot: Boot) -> None:
        """An image boots as it is: nothing is installed in it."""
        recipe, image = self.recipe, f"the root is that of an image, `boot.rootfs: {boot.rootfs}`"
        if recipe.packages.variant != "none" or recipe.packages.include:
            key = "include" if recipe.packages.include else "variant"
            hint = "leave it out, or put the image under `image.from` to install on top of it"
            self.fault(("packages", key), image, hint)
        if recipe.image.parent != "none":
            self.fault(("image", "from"), image, "leave one of the two out")
        if boot.initramfs == "distro":
            self.fault(("boot", "initramfs"), f"{image}, in which no tool runs", "write `mkroot`")
        if recipe.disk.grow:
            self.fault(("disk", "grow"), image)

    def _console(self, cmdline: str) -> None:
        consoles = [w.removeprefix("console=") for w in cmdline.split() if w.startswith("console=")]
        if consoles and ("test",) in self.places and not any(c.startswith(SERIAL) for c in consoles):
            self.fault(
                ("boot", "cmdline"),
                f"`console={consoles[-1]}` hides from `test` what the system says",
                "add `console=ttyS0`, or leave `console` out: mkroot adds the machine's own",
            )

    def _disk(self) -> None:
        disk = self.recipe.disk
        if ("disk",) in self.places and self.recipe.boot is None:
            self.fault(("disk",), "a disk is made of a system that boots", "say how under `boot`")
        if disk.grow and (disk.root != "ext4" or disk.overlay):
            self.fault(("disk", "grow"), "only an `ext4` root that is not under an overlay can grow")

    def _outputs(self) -> None:
        for i, kind in good(self.recipe.outputs):
            if kind in BOOTING and ("boot",) not in self.places:
                self.fault(("outputs", i), f"`{kind}` needs the key `boot`", "name at least its `kernel`")
            boot = self.recipe.boot
            if kind == "uki" and boot is not None and boot.firmware == "bios":
                self.fault(("outputs", i), "`uki` needs `firmware: uefi`")
            elif kind == "uki" and boot is not None and boot.loader != "uki":
                self.fault(("outputs", i), f"`loader: {boot.loader}` makes no unified kernel image", "write `uki`")


def local_files(recipe: Recipe) -> list[tuple[Path, LocalPath]]:
    """Return the files and folders of the building machine that a build of `recipe` reads, each with its key."""
    found: list[tuple[Path, LocalPath | None]] = [(("keyring",), recipe.keyring)]
    for i, source in good(recipe.sources):
        if source.key is not None:
            found.append((("sources", i, "key", "file"), source.key.file))
    found += [(("packages", "include", i), want.file) for i, want in good(recipe.packages.include)]
    for i, user in good(recipe.config.users):
        found += [(("config", "users", i, "ssh_keys", n), key) for n, key in enumerate(user.ssh_keys)]
    found += [(("config", "files", i, "from"), file.source) for i, file in good(recipe.config.files)]
    found += [(("hooks", i, "run"), hook.run) for i, hook in good(recipe.hooks)]
    return [(path, local) for path, local in found if isinstance(local, LocalPath)]


def missing_files(recipe: Recipe, places: dict[Path, Place]) -> list[RecipeError]:
    """Return a fault for every local file of `recipe` that is not there, cannot be read, or is of another kind."""
    faults = []
    for path, local in local_files(recipe):
        tree = path[-1] == "from"
        why = None
        if not os.path.exists(local):
            why = "is not there"
        elif os.path.isdir(local):
            why = None if tree else "is a folder, and a file is needed"
        elif not os.path.isfile(local):
            why = "is neither a file nor a folder" if tree else "is no regular file"
        if why is None and not os.access(local, os.R_OK):
            why = "cannot be read"
        if why:
            where = next(places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in places)
            faults.append(RecipeError(f"`{spelled(path)}`: `{local.path}` {why}", where=str(where)))
    return faults
