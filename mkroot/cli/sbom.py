"""`mkroot sbom`: write a bill of materials."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.artifact.sbom import Bill


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    from mkroot.cli.options import add_recipe_options

    parser = subparsers.add_parser(
        "sbom",
        help="write a bill of materials (SPDX, CycloneDX)",
        description="Write the bill of materials of a recipe (from its lock), of a build's output folder "
        "(OUT/NAME/ARCH), or of an image of the store, as JSON. Licences are told where the root is at hand: they "
        "stand in the packages' machine-readable copyright files. The same input gives the same bytes.",
    )
    parser.add_argument("subject", metavar="RECIPE|OUT|REF", help="what the bill is of")
    parser.add_argument("--format", choices=("spdx", "cyclonedx"), default="spdx", help="SPDX 2.3 or CycloneDX 1.6")
    parser.add_argument("-o", "--output", metavar="FILE", help="write it to this file; default: standard output")
    add_recipe_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the bill; 0, or 1 where there is nothing to tell of."""
    from mkroot.cli.streams import target
    from mkroot.errors import ArtifactError

    bill = bill_of(args)
    if args.format == "spdx":
        from mkroot.artifact.spdx import write_spdx as write
    else:
        from mkroot.artifact.cyclonedx import write_cyclonedx as write
    data = write(bill)
    if not args.output:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return 0
    try:
        with target(args.output) as f:
            f.write(data)
    except OSError as e:
        raise ArtifactError(f"the bill cannot be written: {e.strerror}", where=args.output) from e
    return 0


def bill_of(args: argparse.Namespace) -> Bill:
    """Return the bill of what the command line names; raises MkrootError."""
    path = Path(args.subject)
    if args.subject == "-" or path.suffix in (".yaml", ".yml"):
        return _of_recipe(args)
    if path.is_dir():
        return _of_output(path, _single_arch(args))
    return _of_image(args.subject, _single_arch(args))


def _single_arch(args: argparse.Namespace) -> str | None:
    from mkroot.errors import UsageError

    if len(args.arch) > 1:
        raise UsageError("a bill is of one architecture", hint="give `--arch` once")
    return args.arch[0] if args.arch else None


def _of_recipe(args: argparse.Namespace) -> Bill:
    import os

    from mkroot.artifact.sbom import make_bill
    from mkroot.build import open_recipe, settled
    from mkroot.cli.check import definitions
    from mkroot.cli.diff import locked
    from mkroot.cli.options import options_of
    from mkroot.digest import oci, sha256
    from mkroot.errors import UsageError
    from mkroot.lockfile import lock_path
    from mkroot.progress import Progress
    from mkroot.store.store import Store, default_root

    path = lock_path(args.subject, definitions(args.define))
    have = path is not None and path.exists()
    options = options_of(args, lock="auto" if have else "none")  # a bill writes no lock
    recipe = open_recipe(args.subject, options)
    if len(recipe.arch) > 1:
        raise UsageError("a bill is of one architecture", hint=f"give `--arch`: {', '.join(recipe.arch)}")
    environ = dict(os.environ)
    lock = settled(Store(default_root(environ)), recipe, args.subject, options, environ, Progress())
    architecture = str(recipe.arch[0])
    return make_bill(
        name=str(recipe.name),
        architecture=architecture,
        distro=recipe.distro,
        suite=str(recipe.suite),
        epoch=max((suite.date for source in lock.sources for suite in source.suites), default=0),
        digest=oci(sha256(lock.encode())),
        packages=[locked(p) for p in lock.root(architecture).packages],
    )


def _of_output(path: Path, arch: str | None) -> Bill:
    from mkroot.artifact.manifest import read_manifest
    from mkroot.artifact.sbom import make_bill, os_release
    from mkroot.cli.diff import read
    from mkroot.errors import ArtifactError

    if not (path / "manifest.json").is_file():
        found = sorted(p.parent for p in path.glob("**/manifest.json") if p.parent.name not in ("sha256", "oci"))
        if len(found) != 1:
            hint = "name one of " + ", ".join(map(str, found[:10])) if found else "build one: `mkroot build RECIPE`"
            raise ArtifactError("not one build's output folder", where=str(path), hint=hint)
        path = found[0]
    manifest = read_manifest(path / "manifest.json")
    inventory = read(str(path), arch)
    return make_bill(
        name=manifest.name,
        version=os_release(inventory.texts).get("VERSION_ID", ""),
        architecture=manifest.architecture,
        distro=manifest.distro,
        suite=manifest.suite,
        epoch=manifest.epoch,
        digest=manifest.tree,
        packages=inventory.packages.values(),
        texts=inventory.texts,
    )


def _of_image(reference: str, arch: str | None) -> Bill:
    from mkroot.cli.inspect import the_image
    from mkroot.oci.bill import image_bill

    images, image = the_image(reference, arch)
    return image_bill(images.layout(), image, (images.references(image.digest) or (reference,))[0])
