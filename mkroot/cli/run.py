"""`mkroot run`: run a command in a new container of an image."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mkroot.cli.remote import add_remote_options

if TYPE_CHECKING:
    from mkroot.container.record import Settings
    from mkroot.oci.store import Image


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a command in a new container of an image",
        description="Run a command in a new container of an image; without one, what the image names. The status is "
        "the command's own; 125 where mkroot failed, 126 where the command cannot be executed, 127 where it is not "
        "there.",
    )
    parser.add_argument("-i", "--interactive", action="store_true", help="the command reads this standard input")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument("-d", "--detach", action="store_true", help="leave it running, and print its id")
    parser.add_argument("--rm", action="store_true", help="remove the container when its command has ended")
    parser.add_argument("--name", default="", metavar="N", help="the container's name (default: one is made up)")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable; without VALUE, this one's"
    )
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="variables, one a line")
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="where the command starts")
    parser.add_argument("-u", "--user", default="", metavar="USER[:GROUP]", help="names of the image, or numbers")
    parser.add_argument(
        "-v", "--volume", action="append", default=[], metavar="HOST:PATH[:ro]", help="show a path of this host"
    )
    parser.add_argument(
        "--network",
        choices=("host", "none", "private"),
        default="host",
        help="this host's (default), none, or one of its own by pasta or slirp4netns",
    )
    parser.add_argument("--read-only", action="store_true", help="nothing of the image can be changed")
    parser.add_argument("--memory", "-m", metavar="SIZE", help="at most so much memory, such as 512M")
    parser.add_argument("--hostname", default="", metavar="NAME", help="(default: the beginning of the id)")
    parser.add_argument("--entrypoint", metavar="PROGRAM", help='in place of the image\'s; "" for none')
    parser.add_argument("--arch", metavar="A", help="of an image for several architectures, this one")
    parser.add_argument(
        "--pull", choices=("missing", "never"), default="missing", help="fetch it where it is not there, or never"
    )
    add_remote_options(parser)
    parser.add_argument("reference", metavar="REF", help="an image: name:tag, digest, or the beginning of its id")
    command = parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="CMD", help="the command, and its arguments"
    )
    command.required = False
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run it; the command's own status, or 125."""
    from mkroot.cli.running import tell_failure
    from mkroot.errors import UsageError

    try:
        return _run(args)
    except UsageError:
        raise
    except Exception as e:
        return tell_failure(e)


def _run(args: argparse.Namespace) -> int:
    import os

    from mkroot.cli.running import detached, foreground
    from mkroot.container.wish import parse_environment
    from mkroot.rootfs.identity import assume

    settings = settings_of(args)
    environment = parse_environment(args.env, args.env_file, os.environ)
    identity = assume()
    from mkroot.container.create import create
    from mkroot.container.record import Containers
    from mkroot.store.store import Store, default_root

    image = _image(args)
    store = Store(default_root(dict(os.environ)))
    container = create(
        store,
        identity,
        image,
        args.reference,
        settings=settings,
        environment=environment,
        command=args.command,
        name=args.name,
        term=os.environ.get("TERM", ""),
    )
    try:
        if not args.detach:
            return foreground(store, identity, container, interactive=args.interactive)
        detached(store, identity, container)
    except BaseException:
        # One that never ran is of no use to anybody.
        containers = Containers(store)
        for left in containers.list():
            if left.id == container.id and left.status == "created":
                containers.remove(left)
        raise
    sys.stdout.write(container.id + "\n")
    return 0


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the command line's settings; raises UsageError."""
    import os

    from mkroot.container.record import Settings
    from mkroot.container.wish import check_hostname, parse_memory, parse_volume

    volumes = []
    for text in args.volume:
        volume = parse_volume(text, os.getcwd())
        volumes.append(f"{volume.host}:{volume.path}" + (":ro" if volume.read_only else ""))
    entrypoint = None
    if args.entrypoint is not None:
        entrypoint = (args.entrypoint,) if args.entrypoint else ()
    return Settings(
        user=args.user,
        workdir=args.workdir,
        volumes=tuple(volumes),
        network=args.network,
        hostname=check_hostname(args.hostname) if args.hostname else "",
        read_only=args.read_only,
        tty=args.tty,
        interactive=args.interactive,
        entrypoint=entrypoint,
        memory=parse_memory(args.memory) if args.memory else 0,
        remove=args.rm,
    )


def _image(args: argparse.Namespace) -> Image:
    """Return the image, from its registry where the store has it not and it may be pulled."""
    from mkroot.cli.images import image_store
    from mkroot.cli.inspect import the_image
    from mkroot.errors import ImageError

    try:
        image_store().find(args.reference)
    except ImageError:
        if args.pull == "never" or not _pull(args):
            raise
    return the_image(args.reference, args.arch)[1]


def _pull(args: argparse.Namespace) -> bool:
    """Fetch the image; False where its name says of no registry."""
    import os

    from mkroot.cli.pull import wanted_of
    from mkroot.cli.remote import registry_of
    from mkroot.cli.terminal import make_progress
    from mkroot.errors import ImageError
    from mkroot.oci.reference import Reference
    from mkroot.oci.registry.pull import pull
    from mkroot.store.store import Store, default_root
    from mkroot.store.use import using

    try:
        reference = Reference.parse(args.reference)
    except ImageError:
        return False
    if not reference.host:
        return False
    store, progress = Store(default_root(dict(os.environ))), make_progress()
    with using(store), registry_of(reference.host, args, progress) as registry:
        pull(store, reference, registry, wanted_of(args.arch, False), progress)
    return True
