"""`mkroot rebase`: put an image's own layers on a newer parent."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.rebase import Outcome


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "rebase",
        help="put an image's own layers on a newer parent",
        description="Put the layers that an image has above its parent on a newer parent, as they are, and answer one "
        "of three: `safe`; `configure`, where the image's own dpkg had to bring its database and the work of triggers "
        "up to date, which is one small layer more; or `no`, with what stands in the way, and nothing is changed.",
    )
    parser.add_argument("image", metavar="REF", help="the image")
    parser.add_argument("--onto", required=True, metavar="REF", help="the new parent")
    parser.add_argument(
        "--from", dest="former", metavar="REF", help="the former parent; default: what the image names, or has most of"
    )
    parser.add_argument("--tag", metavar="NEW", help="the new image's name; default: REF, which the old one loses")
    parser.add_argument("--arch", metavar="A", help="of images for several architectures, this one")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rebase and print the answer; 0, or 1 where it is no."""
    from mkroot.cli.inspect import the_image
    from mkroot.cli.tag import new_name
    from mkroot.errors import UsageError
    from mkroot.oci.model import seconds
    from mkroot.oci.rebase import former_parent, rebase
    from mkroot.oci.store import platforms_of
    from mkroot.rootfs.identity import assume
    from mkroot.rootfs.top import scratch
    from mkroot.sourcedate import source_date
    from mkroot.store.layer import LayerStore
    from mkroot.store.use import using

    identity = assume()
    images, image = the_image(args.image, args.arch)
    if not args.tag and not images.is_tag(args.image):
        raise UsageError(f"`{args.image}` is no tag that could be moved", hint="name the new image with `--tag NEW`")
    name = new_name(args.tag or args.image)
    if not args.tag and len(platforms_of(images.layout(), images.find(args.image))) > 1:
        raise UsageError(
            f"`{args.image}` is for several architectures", hint="rebase one at a time, with `--arch A --tag NEW`"
        )
    onto = the_image(args.onto, args.arch)[1]
    former = the_image(args.former, args.arch)[1] if args.former else former_parent(images, image)
    date = source_date(os.environ)
    epoch = max(seconds(image.config.created), seconds(onto.config.created)) if date is None else date
    size = 4 * sum(layer.size for i in (image, onto) for layer in i.manifest.layers)
    with using(images.store), images.using(), scratch(images.store, identity, size) as trees:
        outcome = rebase(images, LayerStore(images.store), identity, trees, image, former, onto, args.onto, epoch)
        if outcome.image is not None:
            images.tag(outcome.image, name)
    _tell(args, str(name.tagged), former.digest, onto.digest, outcome)
    return 1 if outcome.image is None else 0


def _tell(args: argparse.Namespace, name: str, former: str, onto: str, outcome: Outcome) -> None:
    from mkroot.cli.terminal import print_json

    if args.json:
        print_json(
            {
                "answer": outcome.answer,
                "reference": name if outcome.image else None,
                "digest": outcome.image.digest if outcome.image else None,
                "from": former,
                "onto": onto,
                "packages": list(outcome.packages),
                "clashes": [{"path": c.path, "why": c.why} for c in outcome.clashes],
                "unmet": list(outcome.unmet),
            }
        )
        return
    lines = [outcome.answer + (f" {name} {outcome.image.digest}" if outcome.image else "")]
    lines += [f"  configured {package}" for package in outcome.packages]
    lines += [f"  {c.path if c.path.startswith('package ') else '/' + c.path}: {c.why}" for c in outcome.clashes]
    lines += [f"  {line}" for line in outcome.unmet]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if outcome.image is None:
        sys.stderr.write(f"{args.image} was not put on {args.onto}, and nothing was changed: build it again on it\n")
