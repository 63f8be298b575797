"""`mkroot login`: check a user and a password at a registry, and keep them."""

from __future__ import annotations

import argparse
import sys

from mkroot.cli.remote import add_remote_options


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "login",
        help="log in to a registry",
        description="Check a user and a password at a registry, and keep them where Docker does: in the file "
        "config.json of DOCKER_CONFIG or ~/.docker, mode 0600, or with the credential helper that it names.",
    )
    parser.add_argument("host", metavar="HOST[:PORT]", help="the registry")
    parser.add_argument("-u", "--username", metavar="USER", help="the user; asked for on a terminal otherwise")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    add_remote_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Log in; 0, or 1 where the registry refuses."""
    import os

    from mkroot.cli.remote import host_of, registry_of
    from mkroot.cli.terminal import labelled
    from mkroot.oci.registry.credentials import Credential, Credentials

    host = host_of(args.host)
    credential = Credential(user=_user(args), password=_password(args))
    with registry_of(host, args, credential=credential) as registry:
        checked = registry.log_in()
    where = Credentials(dict(os.environ)).keep(host, credential)
    if not checked:
        sys.stderr.write(labelled("note", f"`{host}` asks for no login, so the password was not checked"))
    sys.stderr.write(f"logged in to {host} as {credential.user}; kept in {where}\n")
    return 0


def _user(args: argparse.Namespace) -> str:
    from mkroot.errors import UsageError

    user: str = args.username or ""
    if not user:
        if args.password_stdin or not sys.stdin.isatty():
            raise UsageError("missing: the user", hint="`-u USER --password-stdin`")
        sys.stderr.write("user: ")
        sys.stderr.flush()
        user = sys.stdin.readline().strip()
    if not user or ":" in user or not user.isprintable():
        raise UsageError(f"`{user}` is not a user's name", hint="it is not empty, and has no `:`")
    return user


def _password(args: argparse.Namespace) -> str:
    from mkroot.errors import UsageError

    if args.password_stdin:
        try:
            password = sys.stdin.buffer.read(1 << 16).decode()
        except UnicodeDecodeError:
            raise UsageError("the password on standard input is not UTF-8") from None
        password = password.removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        import getpass

        password = getpass.getpass("password: ", stream=sys.stderr)
    else:
        raise UsageError("no password: standard input is no terminal", hint="`--password-stdin` reads it from there")
    if not password or "\n" in password or "\0" in password:
        raise UsageError("the password is empty, or has more than one line")
    return password
