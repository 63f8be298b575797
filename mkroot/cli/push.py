"""`mkroot push`: store an image in a registry."""

from __future__ import annotations

import argparse

from mkroot.cli.remote import add_remote_options


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    from mkroot.oci.model import CODECS

    parser = subparsers.add_parser(
        "push",
        help="store an image in a registry",
        description="Store an image of the store in the registry that its name begins with; of an image for several "
        "architectures, all. Only what the registry lacks is sent. Prints the name with the digest.",
    )
    parser.add_argument("reference", metavar="REF", help="HOST[:PORT]/NAME[:TAG]; `mkroot tag` gives such a name")
    parser.add_argument(
        "--compression", choices=tuple(CODECS), help="have every layer compressed so on the way; the image itself stays"
    )
    parser.add_argument("--attach", action="store_true", help="with its bill of materials, and the record of its build")
    add_remote_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Push; 0, or 1 where the registry refuses."""
    import os

    import msgspec

    from mkroot.cli.remote import registry_of, remote
    from mkroot.cli.terminal import make_progress, print_json
    from mkroot.oci.registry.push import push
    from mkroot.oci.store import ImageStore
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    reference = remote(args.reference)
    store = Store(default_root(dict(os.environ)))
    progress = make_progress()
    images = ImageStore(store)
    with using(store), registry_of(reference.host, args, progress) as registry, images.using():
        descriptor = images.find(str(reference))
        if args.compression:
            from mkroot.oci.relayer import Wish, relayer
            from mkroot.store.layer import LayerStore

            wish = Wish(compression=args.compression, whole=True)
            descriptor = relayer(images, LayerStore(store), descriptor, wish, progress).descriptor
        artifacts = []
        if args.attach:
            from mkroot.oci.registry.attachments import attachments

            artifacts = attachments(store, images.layout(), descriptor, reference.path)
        pushed = push(store, descriptor, reference, registry, progress, artifacts)
    if args.json:
        print_json(msgspec.to_builtins(pushed))
    else:
        print(f"{reference.name}{':' + reference.tag if reference.tag else ''}@{pushed.digest}")
    return 0
