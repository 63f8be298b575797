"""`mkroot relayer`: cut and compress an image's layers in another way, without a build."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkroot.oci.reference import Reference
    from mkroot.oci.relayer import Outcome, Wish
    from mkroot.oci.store import ImageStore

BUDGET = (2, 120)  # as recipes have it


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    from mkroot.oci.model import CODECS

    parser = subparsers.add_parser(
        "relayer",
        help="cut and compress an image's layers in another way, without a build",
        description="Make an image of the same tree and config with other layers: one layer, or one for each of the "
        "biggest source packages; or the same layers compressed in another way. The layers of what the image stands on "
        "stay as they are. Of an image that mkroot built, this is byte for byte what a build of its recipe with these "
        "settings gives. Of an image for several architectures, each is made. Prints the new name with the digest.",
    )
    parser.add_argument("image", metavar="REF", help="the image: name:tag, digest, or the beginning of an id")
    parser.add_argument(
        "name", nargs="?", metavar="NEW", help="the new image's name; default: REF, which the old loses"
    )
    parser.add_argument("--by", choices=("single", "source"), help="one layer, or layers by source package")
    parser.add_argument("--budget", type=int, metavar="N", help="with `--by source`: the most layers; default: 10")
    parser.add_argument("--compression", choices=tuple(CODECS), help="of the new layers; default: as it is")
    parser.add_argument("--compression-level", metavar="N", help="how hard it tries: a number, or `best`")
    parser.add_argument("--single-stream", action="store_true", help="compress each layer as one stream")
    parser.add_argument(
        "--whole", action="store_true", help="make the layers anew, too, of the image that this one stands on"
    )
    parser.add_argument(
        "--from", dest="former", metavar="REF", help="what the image stands on; default: what the image names"
    )
    parser.add_argument("--tag", action="append", default=[], metavar="T", help="one more name; may be repeated")
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the image and print its names; 0, or 1 where that cannot be."""
    from mkroot.cli.images import image_store
    from mkroot.cli.inspect import the_image
    from mkroot.cli.terminal import make_progress
    from mkroot.mending import mending
    from mkroot.oci.relayer import relayer
    from mkroot.store.layer import LayerStore
    from mkroot.store.use import using

    wish = wish_of(args)
    images = image_store()
    names = _names(args, images)
    progress = make_progress()
    with using(images.store), images.using():
        descriptor = the_image(args.image, args.arch)[1].descriptor if args.arch else images.find(args.image)
        outcome = mending(
            images.store, progress, lambda: relayer(images, LayerStore(images.store), descriptor, wish, progress)
        )
        for name in names:
            images.tag(outcome.descriptor, name)
    _tell(args, [name.tagged for name in names], outcome)
    return 0


def wish_of(args: argparse.Namespace) -> Wish:
    """Return what is wanted; raises UsageError where options contradict each other, or nothing is wanted."""
    from mkroot.errors import UsageError
    from mkroot.oci.recut import Cut
    from mkroot.oci.relayer import Wish
    from mkroot.sourcedate import source_date
    from mkroot.store.frame import CHUNKED

    if not (args.by or args.compression or args.compression_level or args.single_stream):
        raise UsageError("nothing is to be made anew", hint="say how: `--by source`, or `--compression zstd`")
    if args.budget is not None and args.by != "source":
        raise UsageError("a budget is for layers by source package", hint="write `--by source`")
    if args.budget is not None and not BUDGET[0] <= args.budget <= BUDGET[1]:
        raise UsageError(f"`--budget {args.budget}`: from {BUDGET[0]} to {BUDGET[1]} layers")
    if args.single_stream and args.compression == "none":
        raise UsageError("layers that are not compressed have no streams", hint="leave `--single-stream` out")
    if args.single_stream and args.compression == CHUNKED:
        raise UsageError(f"a `{CHUNKED}` layer has each file in a stream of its own", hint="write `--compression zstd`")
    if args.whole and args.former:
        raise UsageError("`--whole` keeps no layer, and `--from` names those that stay", hint="leave one of them out")
    return Wish(
        cut=Cut(by=args.by, budget=args.budget or 10) if args.by else None,
        compression=args.compression or "",
        level=level_of(args.compression_level, args.compression),
        single_stream=args.single_stream,
        whole=args.whole,
        former=args.former or "",
        latest=source_date(os.environ),
    )


def level_of(text: str | None, compression: str | None) -> int | None:
    """Return a level, 0 for the highest, None for the default; raises UsageError."""
    from mkroot.errors import UsageError
    from mkroot.store.frame import BEST

    if text is None:
        return None
    if compression not in BEST:
        raise UsageError(
            "a level is of a compression that has levels", hint=f"write `--compression {' or '.join(sorted(BEST))}`"
        )
    if text == "best":
        return 0
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= BEST[compression]:
        raise UsageError(
            f"`--compression-level {text}`: {compression} has the levels 1 to {BEST[compression]}",
            hint="`best` is the highest",
        )
    return int(text)


def _names(args: argparse.Namespace, images: ImageStore) -> list[Reference]:
    """Return the new image's names; raises UsageError where it has none, ImageError for what is no name."""
    from mkroot.cli.tag import new_name
    from mkroot.errors import UsageError
    from mkroot.oci.store import platforms_of

    given = [*([args.name] if args.name else []), *args.tag]
    if given:
        return list({name.tagged: name for name in map(new_name, given)}.values())
    if not images.is_tag(args.image):
        images.find(args.image)
        raise UsageError(f"`{args.image}` is no tag that could be moved", hint="name the new image after it")
    if args.arch and len(platforms_of(images.layout(), images.find(args.image))) > 1:
        raise UsageError(
            f"`{args.image}` is for several architectures", hint="name the new image after it, or leave `--arch` out"
        )
    return [new_name(args.image)]


def _tell(args: argparse.Namespace, names: list[str], outcome: Outcome) -> None:
    from mkroot.cli.terminal import labelled, print_json

    if outcome.left_out:
        told = "statements about the former images are" if outcome.left_out > 1 else "statement about a former image is"
        sys.stderr.write(labelled("note", f"{outcome.left_out} {told} not in the new index"))
    if not args.json:
        sys.stdout.write("".join(f"{name}@{outcome.descriptor.digest}\n" for name in names))
        return
    print_json(
        {
            "references": names,
            "digest": outcome.descriptor.digest,
            "images": [
                {
                    "digest": made.descriptor.digest,
                    "before": made.before,
                    "architecture": made.descriptor.platform.architecture if made.descriptor.platform else "",
                    "made_of": made.made_of,
                    "kept": made.kept,
                    "layers": [{"digest": layer.digest, "size": layer.size} for layer in made.layers],
                }
                for made in outcome.images
            ],
        }
    )
