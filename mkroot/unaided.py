"""Whether a lock's kernel mounts the recipe's root by itself, told before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from mkroot import assembling, packages, rooting
from mkroot.boot.cmdline import completed
from mkroot.boot.kernel import find_kernel, unassisted
from mkroot.boot.machine import machine_of
from mkroot.origins import origin
from mkroot.progress import Progress
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import LockedRoot
from mkroot.resolve.resolver import KERNELS
from mkroot.store.layer import LayerStore
from mkroot.store.store import Store
from mkroot.store.writer import Chown

if TYPE_CHECKING:
    from mkroot.build import Options


class Unaided(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. kernel: its version. holds: it can. why: what it lacks, or what it has built in."""

    kernel: str
    machine: str
    holds: bool
    why: tuple[str, ...]


def unaided(
    store: Store,
    recipe: Recipe,
    architecture: str,
    locked: LockedRoot,
    options: Options,
    environ: Mapping[str, str],
    progress: Progress,
) -> Unaided | None:
    """Tell whether `initramfs: none` holds; None where the recipe does not ask for it.

    The kernel's packages are fetched where the store has them not, for the answer is in them. Raises MkrootError.
    """
    boot = recipe.boot
    if boot is None or boot.initramfs != "none":
        return None
    wanted = tuple(p for p in (*locked.packages, *locked.beside) if p.name.startswith(KERNELS))
    items = assembling.wanted_items(store, recipe, wanted, origin(recipe, architecture, options.mirror, environ))
    layers = LayerStore(store)
    missing = packages.absent(store, items, None)
    with packages.supplied(layers, missing, None, (), Chown(), environ, options.offline, progress) as supply:
        supply.finish()
        tree = rooting.unpacked(rooting.empty_root(layers, architecture), supply.layers(items)).tree
    kernel = find_kernel(tree, str(boot.kernel))
    machine = machine_of(boot.machine, boot.firmware, boot.loader, architecture)
    cmdline = completed(
        str(boot.cmdline),
        root="PARTUUID=",
        writable=recipe.disk.root == "ext4" and not recipe.disk.overlay,
        overlay=recipe.disk.overlay,
        image="",
        console=machine.console,
        wait=True,
    )
    root = next(w.removeprefix("root=") for w in cmdline.split() if w.startswith("root="))
    lacking = unassisted(
        kernel, tree, filesystem=recipe.disk.root, bus=machine.bus, root=root, overlay=recipe.disk.overlay
    )
    why = lacking or (f"the kernel has {recipe.disk.root} and the disks of `{machine.name}` built in",)
    return Unaided(kernel=kernel.version, machine=machine.name, holds=not lacking, why=why)
