"""The recipe of a machine that runs an image, for who names an image alone."""

from __future__ import annotations

import re

from mkroot.errors import BootError, RootfsError, UsageError
from mkroot.oci.layers import debian_architecture
from mkroot.oci.reference import Reference
from mkroot.oci.store import Image
from mkroot.rootfs.tree import Tree

FOREIGN = ("debian", "trixie")  # whose kernel an image of another distribution is given
KERNELS = {  # the smallest that each distribution makes for a virtual machine
    ("debian", "amd64"): "linux-image-cloud-amd64",
    ("debian", "arm64"): "linux-image-cloud-arm64",
    ("ubuntu", "amd64"): "linux-image-virtual",
    ("ubuntu", "arm64"): "linux-image-virtual",
}


def machine_recipe(
    image: Image, tree: Tree, reference: str, kernel: str | None, archive: str | None
) -> tuple[str, str]:
    """Return the name and the text of a recipe whose machine runs an image; raises BootError, UsageError.

    tree: the image's root. reference: how the image store finds it. kernel: a package; default the image's own
    distribution's for virtual machines. archive: `DISTRO/SUITE` that has it.
    """
    distro, suite = _archive(archive) if archive else _own(tree) or FOREIGN
    architecture = debian_architecture(image)
    package = kernel or KERNELS.get((distro, architecture))
    if package is None:
        raise BootError(
            f"no kernel is known for {distro} on {architecture}", where=reference, hint="name its package by `--kernel`"
        )
    parsed = Reference.parse(reference)
    name = re.sub(r"[^a-z0-9]+", "-", f"{parsed.path}-{parsed.tag or parsed.digest[7:19]}".lower()).strip("-")
    lines = [
        f"# The machine of the image {reference}. Made by `mkroot boot`; to be kept and changed.",
        "version: 1",
        f"name: {name}",
        f"distro: {distro}",
        f"suite: {suite}",
        f"arch: [{architecture}]",
        "boot:",
        f"  rootfs: image:{reference}",
        f"  kernel: {package}",
        "  loader: direct",
        "outputs: [bootfs, ext4]",
    ]
    return name, "\n".join(lines) + "\n"


def _archive(text: str) -> tuple[str, str]:
    distro, slash, suite = text.partition("/")
    if not slash or distro not in ("debian", "ubuntu") or not re.fullmatch(r"[a-z][a-z0-9.-]*", suite):
        raise UsageError(f"`--archive {text}`: expected a distribution and its suite, such as `debian/trixie`")
    return distro, suite


def _own(tree: Tree) -> tuple[str, str] | None:
    """Return the distribution and suite that the image says it is (os-release(5)), where mkroot knows its archive."""
    try:
        text = tree.read("etc/os-release").decode("utf-8", "replace")
    except RootfsError:
        return None
    rows = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    distro, suite = (rows.get(k, "").strip("\"'") for k in ("ID", "VERSION_CODENAME"))
    return (distro, suite) if distro in ("debian", "ubuntu") and re.fullmatch(r"[a-z]+", suite) else None
