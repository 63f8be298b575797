"""The modules that drivers need, in the order in which they load, with the firmware that they name."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from mkroot.boot.kernel import Kernel, builtin_modules, canonical
from mkroot.errors import BootError
from mkroot.rootfs.tree import Tree
from mkroot.tar.entry import FILE, HARDLINK

FIRMWARE = "usr/lib/firmware"
_LIMIT = 256 << 20  # bytes of one module or firmware file; the largest real ones are a tenth of it
_ENDINGS = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
# Where there is no modules.alias (depmod did not run), the folders in which an alias is looked for: all of a kernel's
# modules take too long to read, and soft dependencies ask for file systems and for algorithms.
_ALIAS_FOLDERS = {"fs": ("kernel/fs/",), "": ("kernel/crypto/", "kernel/lib/", "kernel/arch/")}


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel module. path: in the tree. data: the ELF file, uncompressed. depends, pre, post, firmware: as it says.

    pre and post are soft dependencies (modprobe.d(5), softdep): loaded before and after it where they exist.
    """

    name: str
    path: str
    data: bytes
    depends: tuple[str, ...] = ()
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()
    vermagic: str = ""
    aliases: tuple[str, ...] = ()


class Closure(msgspec.Struct, frozen=True, kw_only=True):
    """What drivers need.

    modules: in the order in which they load. firmware: path below /lib/firmware and content, uncompressed.
    missing_firmware: what modules name and the tree lacks. left_out: optional drivers that the kernel does not have.
    """

    modules: tuple[Module, ...]
    firmware: tuple[tuple[str, bytes], ...]
    missing_firmware: tuple[str, ...]
    left_out: tuple[str, ...]


def closure(tree: Tree, kernel: Kernel, wanted: Sequence[str], optional: Sequence[str] = ()) -> Closure:
    """Return the modules for drivers, dependencies first; a driver that is built in needs none.

    wanted, optional: names of modules, `-` and `_` alike, or aliases such as `fs-ext4`. Raises BootError where a wanted
    driver is nowhere in the kernel, and for a module that cannot be read or is another kernel's.
    """
    index = _Index(tree, kernel)
    order: dict[str, Module] = {}
    for name in wanted:
        found = index.resolve(name)
        if found is None:
            raise _missing(name, kernel)
        _visit(index, found, order)
    left_out = []
    for name in optional:
        found = index.resolve(name)
        if found is None:
            left_out.append(canonical(name))
        else:
            _visit(index, found, order)
    firmware, missing = _firmware(tree, kernel, order.values())
    return Closure(
        modules=tuple(order.values()),
        firmware=tuple(sorted(firmware.items())),
        missing_firmware=tuple(sorted(missing)),
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _missing(name: str, kernel: Kernel) -> BootError:
    return BootError(
        f"the kernel {kernel.version} has no driver {canonical(name)}, neither built in nor as a module",
        where="boot.kernel",
        hint="take another kernel package: Debian's cloud flavour lacks the drivers of real hardware, which "
        "linux-image-amd64 has; on Ubuntu many are in linux-modules-extra-VERSION (linux-image-generic)",
    )


def _visit(index: _Index, names: Iterable[str], order: dict[str, Module]) -> None:
    """Put modules and what they need into `order`. Without recursion: a chain of modules may be long, or a ring."""
    begun: set[str] = set()
    todo = [(name, False) for name in reversed(list(names))]
    while todo:
        name, ready = todo.pop()
        if name in order:
            continue
        module = index.load(name)
        if ready:
            order[name] = module
            continue
        if name in begun:  # a ring of soft dependencies: whoever was first stays first
            continue
        begun.add(name)
        needed = [n for soft in module.pre for n in index.resolve(soft) or ()]
        for depended in module.depends:
            found = index.resolve(depended)
            if found is None:
                raise BootError(
                    f"the module {name} needs {depended}, which the kernel {index.kernel.version} does not have",
                    where=f"/{module.path}",
                    hint="a package of the kernel is missing: on Ubuntu it may be linux-modules-extra-VERSION",
                )
            needed += found
        after = [n for soft in module.post for n in index.resolve(soft) or ()]
        todo += [(n, False) for n in reversed(after)]
        todo.append((name, True))
        todo += [(n, False) for n in reversed(needed)]


class _Index:
    """The modules of a kernel by name and alias. Files are read when they are asked for, and once.

    modules.dep, modules.alias and modules.softdep are depmod's, and only there when the kernel's scripts ran; without
    them the files themselves say the same, for depmod takes it from their .modinfo.
    """

    def __init__(self, tree: Tree, kernel: Kernel) -> None:
        self.tree = tree
        self.kernel = kernel
        self.builtin = builtin_modules(tree, kernel)
        self.paths = self._paths()
        self._loaded: dict[str, Module] = {}
        self._aliases: dict[str, list[str]] = {}
        for words in (line.split() for line in self._lines("modules.alias")):
            if len(words) == 3 and words[0] == "alias":
                self._aliases.setdefault(words[1].replace("-", "_"), []).append(canonical(words[2]))
        self._told = bool(self._aliases)
        self._scanned: set[str] = set()
        self._soft: dict[str, str] = {}
        for words in (line.split() for line in self._lines("modules.softdep")):
            if len(words) > 2 and words[0] == "softdep":
                self._soft[canonical(words[1])] = " ".join(words[2:])
        self._builtin_aliases = {
            line.partition("=")[2].replace("-", "_")
            for line in self._lines("modules.builtin.modinfo", "\0")
            if line.partition("=")[0].endswith(".alias")
        }

    def _lines(self, name: str, separator: str = "\n") -> list[str]:
        path = f"{self.kernel.modules}/{name}"
        entry = self.tree.get(path)
        if entry is None or entry.kind not in (FILE, HARDLINK):
            return []
        return self.tree.read(path).decode("utf-8", "backslashreplace").split(separator)

    def _paths(self) -> dict[str, str]:
        """Return each module's path. modules.dep knows which of two files of one name counts; else updates/ does."""
        start = self.kernel.modules + "/"
        files = sorted(p for p in self.tree.nodes if p.startswith(start) and p.endswith(_ENDINGS))
        files.sort(key=lambda p: not p.startswith((start + "updates/", start + "extra/")))
        paths: dict[str, str] = {}
        listed = [start + line.partition(":")[0] for line in self._lines("modules.dep") if ":" in line]
        for path in [*(p for p in listed if self.tree.exists(p)), *files]:
            paths.setdefault(canonical(path), path)
        return paths

    def resolve(self, name: str) -> tuple[str, ...] | None:
        """Return the modules that a name or alias stands for: none where it is built in, None where it is nowhere."""
        plain = canonical(name)
        if plain in self.paths:
            return (plain,)
        if plain in self.builtin or plain in self._builtin_aliases:
            return ()
        if plain not in self._aliases and not self._told:
            self._scan(plain)
        found = [n for n in self._aliases.get(plain, ()) if n in self.paths]
        return tuple(dict.fromkeys(found)) or None

    def _scan(self, alias: str) -> None:
        """Read the aliases of the modules in the folders where one like this is to be expected."""
        for folder in _ALIAS_FOLDERS["fs" if alias.startswith("fs_") else ""]:
            start = f"{self.kernel.modules}/{folder}"
            if start in self._scanned:
                continue
            self._scanned.add(start)
            for name in sorted(n for n, path in self.paths.items() if path.startswith(start)):
                for own in self.load(name).aliases:
                    self._aliases.setdefault(own.replace("-", "_"), []).append(name)

    def load(self, name: str) -> Module:
        """Read a module; raises BootError where it is no module of this kernel."""
        if name not in self._loaded:
            path = self.paths[name]
            module = read_module(path, self.tree.read(path))
            built_for = module.vermagic.partition(" ")[0]
            if built_for and built_for != self.kernel.version:
                raise BootError(
                    f"the module {name} is made for the kernel {built_for}, not for {self.kernel.version}",
                    where=f"/{path}",
                    hint="the kernel and its modules must come from packages of one version",
                )
            if name in self._soft:
                pre, post = _softdep(self._soft[name])
                module = msgspec.structs.replace(
                    module,
                    pre=tuple(dict.fromkeys((*module.pre, *pre))),
                    post=tuple(dict.fromkeys((*module.post, *post))),
                )
            self._loaded[name] = module
        return self._loaded[name]


def read_module(path: str, raw: bytes) -> Module:
    """Return what a module's file says of itself in its section .modinfo; raises BootError where it is no module.

    path: decides how the file is compressed (.ko, .ko.xz, .ko.zst, .ko.gz). raw: the file as it is in the tree.
    """
    data = uncompressed(path, raw)
    said: dict[str, list[str]] = {}
    for item in modinfo(path, data).decode("utf-8", "backslashreplace").split("\0"):
        key, sign, value = item.partition("=")
        if sign:
            said.setdefault(key, []).append(value)
    soft = [_softdep(text) for text in said.get("softdep", ())]
    return Module(
        name=canonical(path),
        path=path,
        data=data,
        depends=tuple(canonical(d) for d in ",".join(said.get("depends", ())).split(",") if d),
        pre=tuple(n for pre, _ in soft for n in pre),
        post=tuple(n for _, post in soft for n in post),
        firmware=tuple(said.get("firmware", ())),
        vermagic=(said.get("vermagic") or [""])[0],
        aliases=tuple(said.get("alias", ())),
    )


def modinfo(path: str, data: bytes) -> bytes:
    """Return an ELF file's section .modinfo: `key=value` items that end in NUL; raises BootError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
        content: bytes | None = None if section is None else section.data()
    except (ELFError, ValueError, LookupError, OverflowError, MemoryError, AttributeError, TypeError) as e:
        raise BootError(f"not a kernel module: {e or type(e).__name__}", where=f"/{path}", hint=_DAMAGED) from e
    if content is None:
        raise BootError("not a kernel module: it has no section .modinfo", where=f"/{path}", hint=_DAMAGED)
    return content


_DAMAGED = "the kernel's package is damaged or the recipe replaced the file"


def _softdep(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read `pre: a b post: c` into the two lists."""
    lists: dict[str, list[str]] = {"pre:": [], "post:": []}
    current: list[str] = []
    for word in text.split():
        if word.endswith(":"):
            current = lists.get(word, [])
        else:
            current.append(word)
    return tuple(lists["pre:"]), tuple(lists["post:"])


def uncompressed(path: str, raw: bytes) -> bytes:
    """Return the content of a file whose name tells its compression (.xz, .zst, .gz, else none); raises BootError."""
    import lzma
    import zlib

    import zstandard

    whole = True
    try:
        if path.endswith(".xz"):
            xz = lzma.LZMADecompressor()
            data = xz.decompress(raw, _LIMIT + 1)
            whole = xz.eof
        elif path.endswith(".gz"):
            gz = zlib.decompressobj(31)
            data = gz.decompress(raw, _LIMIT + 1)
            whole = gz.eof
        elif path.endswith(".zst"):
            with zstandard.ZstdDecompressor().stream_reader(raw) as stream:
                data = stream.read(_LIMIT + 1)
            whole = zstandard.frame_content_size(raw) in (-1, len(data))  # -1: the frame does not tell
        else:
            data = raw
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as e:
        raise BootError(f"cannot be uncompressed: {e}", where=f"/{path}", hint=_DAMAGED) from e
    if len(data) > _LIMIT:
        raise BootError(f"larger than {_LIMIT} bytes when uncompressed", where=f"/{path}", hint=_DAMAGED)
    if not whole:
        raise BootError("cannot be uncompressed: it is cut off", where=f"/{path}", hint=_DAMAGED)
    return data


def _firmware(tree: Tree, kernel: Kernel, modules: Iterable[Module]) -> tuple[dict[str, bytes], set[str]]:
    """Return the firmware that modules name and the tree has, and the names of what it has not."""
    found: dict[str, bytes] = {}
    missing: set[str] = set()
    for wanted in sorted({name for module in modules for name in module.firmware}):
        paths = [] if ".." in wanted.split("/") else list(_firmware_paths(tree, kernel, wanted))
        for name, path in paths:
            found.setdefault(name, uncompressed(path, tree.read(path)))
        if not paths:
            missing.add(wanted)
    return found, missing


def _firmware_paths(tree: Tree, kernel: Kernel, wanted: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of the files for one name, which may be a pattern, in the kernel's order of folders."""
    for folder in (
        f"{FIRMWARE}/updates/{kernel.version}",
        f"{FIRMWARE}/updates",
        f"{FIRMWARE}/{kernel.version}",
        FIRMWARE,
    ):
        for ending in ("", ".xz", ".zst"):
            place = f"{folder}/{wanted.lstrip('/')}{ending}"
            for path in tree.glob(place) if "*" in wanted else [place]:
                entry = tree.get(path)
                if entry is not None and entry.kind in (FILE, HARDLINK):
                    name = path.removeprefix(folder + "/")
                    yield (name.removesuffix(ending) if ending else name), path
