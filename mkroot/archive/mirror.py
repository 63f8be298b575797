"""Which mirror a build takes: no address of one is built in, so each is learnt from where the user's system has it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mkroot.archive.address import Address, parse, with_credentials
from mkroot.archive.config import Config
from mkroot.errors import MirrorError

SECURITY = "debian-security"  # the sibling archive that has Debian's security suites
PORTS = "ubuntu-ports"  # Ubuntu's archive of the architectures that its main one does not have


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution's archive.

    origin: where the address came from, for messages: "--mirror", "the recipe", a file.
    security: Debian's security archive; None where the distribution has none apart.
    """

    archive: Address
    security: Address | None
    origin: str


def mirror(
    distro: str,
    architecture: str,
    *,
    config: Config,
    environ: Mapping[str, str],
    recipe: str | None = None,
    option: str | None = None,
    root: Path | None = None,
) -> Mirror:
    """Return the mirror of `distro` ("debian", "ubuntu") for `architecture`.

    The first of: `option` (--mirror), the recipe's `mirror:`, MKROOT_MIRROR_<DISTRO>, the configuration, the host's
    apt sources when the host (`root`) is of the same distribution, the data of python-apt-common. Ubuntu's ports are an
    archive of their own: for their architectures MKROOT_MIRROR_UBUNTU_PORTS and the configuration's `ubuntu-ports` come
    before what is named for `ubuntu`, which may be a mirror of both. Raises MirrorError where none of them knows one.
    """
    root = root or Path("/")
    names = [PORTS, distro] if in_ports(distro, architecture) else [distro]
    named = [(option, "`--mirror`"), (recipe, "the recipe's `mirror:`")]
    for name in names:
        named += [(environ.get(_variable(name)), f"`{_variable(name)}`"), (config.mirrors.get(name), config.path)]
    for text, origin in named:
        if text:
            archive = with_credentials(parse(text, origin), root / "etc/apt")
            return Mirror(archive=archive, security=_security(distro, archive, config, root), origin=origin)
    from mkroot.archive import aptsources

    found = aptsources.find(distro, architecture, root)
    if found is not None:
        security = found.security or _security(distro, found.archive, config, root)
        apart = security if distro == "debian" else None
        return Mirror(archive=found.archive, security=apart, origin="the host's apt sources")
    if text := aptsources.template(distro, architecture, root):
        archive = with_credentials(parse(text, "python-apt-common"), root / "etc/apt")
        security = _security(distro, archive, config, root)
        return Mirror(archive=archive, security=security, origin="python-apt-common")
    raise MirrorError(
        f"no mirror of `{distro}` for `{architecture}` is known",
        hint=f"give one with `--mirror` or `{_variable(names[0])}`, in {os.fspath(_shown(config))} under `[mirrors]`, "
        f"in the apt sources of a {distro.capitalize()} host, or install the package `python-apt-common`",
    )


def in_ports(distro: str, architecture: str) -> bool:
    """Tell whether an architecture is one of those that Ubuntu keeps in an archive of their own."""
    return distro == "ubuntu" and architecture not in ("amd64", "i386", "all")


def _variable(name: str) -> str:
    """Return the environment's variable that names an archive's mirror."""
    return f"MKROOT_MIRROR_{name.upper().replace('-', '_')}"


def _shown(config: Config) -> str:
    return config.path or "`config.toml`"


def _security(distro: str, archive: Address, config: Config, root: Path) -> Address | None:
    """Return Debian's security archive: as configured, else the sibling `debian-security` of the mirror."""
    if distro != "debian":
        return None
    if text := config.mirrors.get(SECURITY):
        return with_credentials(parse(text, config.path), root / "etc/apt")
    return archive.sibling(SECURITY, distro)
