"""From a finished root and the packages beside it to the makers of what boots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from mkroot import rooting
from mkroot.artifact.outputs import Maker
from mkroot.boot.initramfs import BUSYBOX
from mkroot.digest import sha256
from mkroot.errors import SandboxError
from mkroot.oci.model import Execution
from mkroot.oci.store import Image
from mkroot.recipe.model import Recipe
from mkroot.rootfs.appliance import Appliance, loads_modules
from mkroot.rootfs.identity import Identity
from mkroot.rootfs.merge import alias_links
from mkroot.rootfs.stage import Root
from mkroot.rootfs.tree import Tree
from mkroot.store.layer import Layer, LayerStore
from mkroot.store.trees import Trees
from mkroot.tar.entry import FILE

FOLDER = "mkroot-boot"  # in the tools' root: what grub-mkimage reads and writes


def makers(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    recipe: Recipe,
    architecture: str,
    root: Root,
    beside: Sequence[Layer],
) -> dict[str, Maker]:
    """Return the makers of `bootfs`, `uki`, disks and ISO.

    root: before the recipe's config and trim, so that a trim may take the kernel out of what is shipped. beside:
    packages that were locked beside it; their files are read, and their tools run over the root in a sandbox. trees:
    must last as long as the makers are used.
    """
    from mkroot.boot.outputs import Boot, boot_makers

    assert recipe.boot is not None
    both = rooting.unpacked(root, beside)

    def mkimage(target: str, arguments: Sequence[str], files: Mapping[str, bytes]) -> bytes:
        return _mkimage(layers, identity, trees, root, beside, target, arguments, files)

    boot = Boot(
        tree=both.tree,
        key=sha256(json.dumps([root.key, *(p.key for p in beside)]).encode()),
        settings=recipe.boot,
        disk=recipe.disk,
        name=str(recipe.name),
        distro=recipe.distro,
        architecture=str(architecture),
        mkimage=mkimage,
        network=recipe.boot.rootfs != "own" and not loads_modules(root.tree),
    )
    return boot_makers(boot)


def appliance(
    layers: LayerStore, identity: Identity, trees: Trees, root: Root, beside: Sequence[Layer], image: Image
) -> Appliance:
    """Return what makes a machine of an image: its command, busybox, and modules where the root can load them.

    beside: packages with busybox, a kernel, and depmod, which is run over the kernel's modules. Raises MkrootError.
    """
    tree = rooting.unpacked(rooting.empty_root(layers, root.architecture), beside).tree
    config = image.config.config or Execution()
    modules: dict[str, bytes] = {}
    if loads_modules(root.tree):
        made = _depmod(layers, identity, trees, root.architecture, beside)
        modules = {p: made.read(p) for p in made.glob("usr/lib/modules/**") if made.nodes[p].entry.kind == FILE}
    return Appliance(
        command=(*(config.entrypoint or ()), *(config.cmd or ())),
        env=config.env or (),
        workdir=config.working_dir,
        user=config.user,
        busybox=tree.read(BUSYBOX),
        modules=modules,
    )


def _depmod(layers: LayerStore, identity: Identity, trees: Trees, architecture: str, beside: Sequence[Layer]) -> Tree:
    """Return the tree of the packages with the lists of each kernel's modules, by the lock's own depmod(8)."""
    bare = rooting.unpacked(rooting.empty_root(layers, architecture), beside)

    def put(tree: Tree) -> tuple[rooting.Origins, rooting.Notes]:
        for link in alias_links(tree):
            tree.put(link)
        return {}, ()

    key = hashlib.sha256(json.dumps(["depmod", rooting.FORMAT, *(p.key for p in beside)]).encode()).hexdigest()
    bare = rooting.save(layers, bare, key, "depmod input", put)
    scripts = [
        rooting.Script(shown="depmod", origin="mkroot: the kernel's modules", argv=("depmod", version))
        for version in bare.tree.children("usr/lib/modules")
    ]
    return rooting.run(layers, identity, trees, bare, scripts, "depmod", 0).tree


def _mkimage(
    layers: LayerStore,
    identity: Identity,
    trees: Trees,
    root: Root,
    beside: Sequence[Layer],
    target: str,
    arguments: Sequence[str],
    files: Mapping[str, bytes],
) -> bytes:
    """Run the lock's own grub-mkimage over the root and return what it made; raises SandboxError.

    Taken from the store where the same packages made an image of the same arguments.
    """
    from mkroot.boot.grub import platform

    bare = rooting.unpacked(rooting.empty_root(layers, root.architecture), (*root.packages, *beside))
    parts = [[p.key for p in bare.packages], target, list(arguments), {n: files[n].hex() for n in sorted(files)}]
    key = hashlib.sha256(json.dumps(["mkimage", rooting.FORMAT, *parts]).encode()).hexdigest()

    def put(tree: Tree) -> tuple[rooting.Origins, rooting.Notes]:
        for link in alias_links(tree):
            tree.put(link)
        for name in files:
            tree.write(f"{FOLDER}/{name}", files[name], 0o644, 0, 0)
        tree.write(f"{FOLDER}/.made", b"", 0o644, 0, 0)
        return {}, ()

    bare = rooting.save(layers, bare, key, "grub-mkimage input", put)
    argv = ("grub-mkimage", "-O", target, "-d", f"/usr/lib/grub/{platform(target)}", "-o", "core.img", *arguments)
    script = rooting.Script(shown="grub-mkimage", origin="mkroot: boot loader", argv=argv, cwd=f"/{FOLDER}")
    made = rooting.run(layers, identity, trees, bare, [script], "grub-mkimage", 0)
    try:
        return made.tree.read(f"{FOLDER}/core.img")
    except Exception as e:
        raise SandboxError("grub-mkimage made no image", where=target) from e
