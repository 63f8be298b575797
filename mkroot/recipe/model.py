"""The recipe as a value: every key, what it takes and what it means.

The JSON Schema and docs/recipe.md are made from these types, so a key's description here is its documentation.
"""

# No `from __future__ import annotations`: msgspec would have to evaluate each of them again, which takes 5 ms.
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, field

from mkroot.recipe.booting import Boot, Disk, Test
from mkroot.recipe.numbers import Level, Mode, Size
from mkroot.recipe.part import Part, doc
from mkroot.recipe.values import (
    MAX_ID,
    AccountName,
    AptMirror,
    Arch,
    Component,
    Fingerprint,
    Gecos,
    Hostname,
    Id,
    ImagePath,
    Label,
    LinkTarget,
    Locale,
    Name,
    Owner,
    PackageGlob,
    PackageName,
    Parent,
    Password,
    PathGlob,
    RunUser,
    Snapshot,
    SourceSuite,
    Suite,
    Tag,
    Text,
    TimeZone,
    Unit,
    Url,
    Variable,
)
from mkroot.recipe.wants import LocalPath, Want

OutputKind = Literal[
    "dir", "tar", "tar.gz", "tar.zst", "cpio.zst", "squashfs", "erofs", "ext4", "oci", "oci-archive", "docker-archive",
    "bootfs", "uki", "disk.raw", "disk.qcow2", "iso",
]  # fmt: skip
Variant = Literal["none", "essential", "apt", "required", "minbase", "buildd", "important", "standard"]
Pocket = Literal["updates", "security", "backports"]
AccountId = Annotated[int, Meta(ge=0, le=MAX_ID)]


class SourceKey(Part, frozen=True, kw_only=True):
    """Who may sign a further repository."""

    file: Annotated[LocalPath, doc("The key, armoured or binary.", "tool.asc")]
    fingerprint: Annotated[
        Fingerprint | None,
        doc(
            "The key's whole fingerprint; a file that holds another key is refused.",
            "0123456789ABCDEF0123456789ABCDEF01234567",
        ),
    ] = None


class Source(Part, frozen=True, kw_only=True):
    """A further repository."""

    id: Annotated[Id, doc("Its name in this recipe, in pins and in the lock.", "tool")]
    uri: Annotated[Url, doc("Its address.", "https://mirror.example/tool")]
    suites: Annotated[
        tuple[SourceSuite, ...],
        Meta(min_length=1, description="Its suites; `./` for a flat repository.", examples=[["stable"]]),
    ]
    components: Annotated[
        tuple[Component, ...], doc("Its components; a flat repository has none.", ["main"], ["main", "contrib"])
    ] = (Component("main"),)
    key: Annotated[
        SourceKey | None,
        doc("Who may sign it; without it, the keys that sign the distribution itself.", {"file": "tool.asc"}),
    ] = None
    trusted: Annotated[bool, doc("Take it without a signature. Nothing else makes an unsigned repository usable.")] = (
        False
    )
    keep: Annotated[bool, doc("Leave it among the apt sources of the image.")] = False


class Pin(Part, frozen=True, kw_only=True):
    """A priority for the versions of some packages, as apt_preferences(5) has it."""

    package: Annotated[PackageGlob, doc("The packages meant.", "nginx*")]
    source: Annotated[
        Id, doc("Where the versions come from: the `id` of a source, or the distribution's own name.", "tool")
    ]
    priority: Annotated[
        int,
        Meta(
            ge=-32768,
            le=32767,
            description="From 990 up it beats newer versions elsewhere; from 1,000 up it allows older ones; below 0 it "
            "forbids them.",
            examples=[990],
        ),
    ]


class Packages(Part, frozen=True, kw_only=True):
    """What is installed."""

    variant: Annotated[
        Variant,
        doc(
            "The set to start from, as mmdebstrap defines it. `none` is the includes and their dependencies and "
            "nothing else, not even Essential packages. Default `minbase`; on a parent image `none`."
        ),
    ] = "minbase"
    include: Annotated[
        tuple[Want, ...],
        doc(
            "Packages to add: by name, with `=version` or a glob for it, with `/suite`, with `:arch`, or as the path "
            "of a local .deb.",
            ["openssh-server", "curl=8.*", "vim/noble-updates", "./local.deb"],
        ),
    ] = ()
    exclude: Annotated[
        tuple[PackageName, ...], doc("Packages that must not be installed; what needs them is an error.", ["tzdata"])
    ] = ()
    recommends: Annotated[bool, doc("Install recommended packages as well.")] = False


class Apt(Part, frozen=True, kw_only=True):
    """apt inside the image."""

    mirror: Annotated[
        AptMirror,
        doc(
            "The address that is written into an image that has apt: the mirror `used` by this build, with any "
            "password removed; `none`; or an address. Default `used`; on a parent image `none`, which leaves the "
            "parent's own.",
            "https://mirror.example/ubuntu",
        ),
    ] = AptMirror("used")


class Trim(Part, frozen=True, kw_only=True):
    """What is left out of the image. Copyright files always stay."""

    docs: Annotated[bool, doc("Remove /usr/share/doc, info and the like.")] = False
    man: Annotated[bool, doc("Remove the manual pages.")] = False
    locales: Annotated[
        tuple[Locale, ...] | None,
        doc("Keep the translations for these only; an empty list keeps none.", ["C.UTF-8"]),
    ] = None
    paths: Annotated[tuple[PathGlob, ...], doc("Remove what matches.", ["/usr/share/x/**"])] = ()


class Group(Part, frozen=True, kw_only=True):
    """A group."""

    name: Annotated[AccountName, doc("Its name.", "app")]
    gid: Annotated[AccountId | None, doc("Its number; the next free one from 1,000 up where left out.", 10000)] = None


class User(Part, frozen=True, kw_only=True):
    """A user."""

    name: Annotated[AccountName, doc("The login name.", "app")]
    uid: Annotated[AccountId | None, doc("The user id; the next free one from 1,000 up where left out.", 10000)] = None
    group: Annotated[
        AccountName | None, doc("The primary group; where left out, one of the user's own name and number.", "staff")
    ] = None
    groups: Annotated[tuple[AccountName, ...], doc("Further groups, of the recipe or of a package.", ["sudo"])] = ()
    comment: Annotated[Gecos, doc("The comment field of passwd(5).", "The application")] = Gecos("")
    home: Annotated[ImagePath | None, doc("The home folder; `/home/NAME` where left out.", "/srv/app")] = None
    shell: Annotated[ImagePath, doc("The login shell.", "/bin/bash")] = ImagePath("/bin/sh")
    password: Annotated[
        Password, doc("`locked` (none is valid), `empty` (none is asked for), or a hash by crypt(5).", "locked")
    ] = Password("locked")
    ssh_keys: Annotated[
        tuple[LocalPath, ...], doc("Public key files; they become the user's authorized_keys.", ["me.pub"])
    ] = ()


class File(Part, frozen=True, kw_only=True):
    """A file, tree, folder or link to put into the image: exactly one of `content`, `from`, `link`, `directory`."""

    path: Annotated[ImagePath, doc("Where it is put.", "/etc/motd")]
    content: Annotated[Text | None, doc("Its content.", "hi\n")] = None
    source: Annotated[LocalPath | None, doc("A file or a folder to copy, with all that is in it.", "./tree")] = field(
        default=None, name="from"
    )
    link: Annotated[LinkTarget | None, doc("Make it a symbolic link to this.", "/run/x")] = None
    directory: Annotated[bool, doc("Make it a folder.")] = False
    mode: Annotated[
        Mode | None,
        doc("Octal, between quotes. Where left out: 0644, a folder 0755, and what is copied keeps its own.", "0644"),
    ] = None
    owner: Annotated[Owner, doc("`user:group`, by name or number; the group is the user's where left out.", "app")] = (
        Owner("root:root")
    )


class Services(Part, frozen=True, kw_only=True):
    """systemd units; `.service` is understood where no kind is named."""

    enable: Annotated[tuple[Unit, ...], doc("Started at boot.", ["ssh"])] = ()
    disable: Annotated[tuple[Unit, ...], doc("Not started at boot.", ["apt-daily.timer"])] = ()
    mask: Annotated[tuple[Unit, ...], doc("Never started, not even by another unit.", ["tmp.mount"])] = ()


class Config(Part, frozen=True, kw_only=True):
    """What is set in the configured system."""

    hostname: Annotated[Hostname | None, doc("The host name.", "box")] = None
    timezone: Annotated[TimeZone | None, doc("The time zone.", "Etc/UTC")] = None
    locale: Annotated[Locale | None, doc("The system's locale.", "C.UTF-8")] = None
    groups: Annotated[tuple[Group, ...], doc("Groups to make or to change.", [{"name": "app", "gid": 10000}])] = ()
    users: Annotated[tuple[User, ...], doc("Users to make or to change.", [{"name": "app", "uid": 10000}])] = ()
    files: Annotated[
        tuple[File, ...], doc("Files to put into the image.", [{"path": "/etc/motd", "content": "hi\n"}])
    ] = ()
    services: Annotated[Services, doc("systemd units.")] = Services()


class Hook(Part, frozen=True, kw_only=True):
    """A script of the recipe, run inside the image as its root."""

    at: Annotated[
        Literal["unpacked", "configured", "final"],
        doc(
            "When: packages `unpacked`, packages `configured`, or `final`, after the recipe's own config and before "
            "the trim."
        ),
    ]
    run: Annotated[LocalPath, doc("The script.", "./setup.sh")]
    network: Annotated[bool, doc("Give it the network; what it fetches is in no lock.")] = False


class Layers(Part, frozen=True, kw_only=True):
    """How the image is cut into layers."""

    by: Annotated[Literal["single", "source"], doc("One layer, or packages grouped by source package.")] = "single"
    budget: Annotated[
        int, Meta(ge=2, le=120, description="The most layers to make, with `by: source`.", examples=[10])
    ] = 10
    single_stream: Annotated[
        bool, doc("Compress a layer as one stream, for readers that do not take joined frames.")
    ] = field(default=False, name="single-stream")


class Image(Part, frozen=True, kw_only=True):
    """The OCI image."""

    parent: Annotated[
        Parent, doc("`none` makes a base image; a reference is built upon and its layers are kept.", "debian:trixie")
    ] = field(default=Parent("none"), name="from")
    layers: Annotated[Layers, doc("How it is cut into layers.")] = Layers()
    compression: Annotated[
        Literal["gzip", "zstd", "zstd:chunked", "none"],
        doc("How its layers are compressed; with `zstd:chunked` podman fetches only the files that it lacks."),
    ] = "gzip"
    level: Annotated[
        Level | None,
        doc(
            "How hard the compressor tries: gzip from 1 to 12, zstd from 1 to 19, or `best` for the highest. Left out, "
            "it is a quick one. What is compressed is kept, so that a high level costs its time once for each package.",
            "best",
            9,
        ),
    ] = field(default=None, name="compression-level")
    cmd: Annotated[tuple[Text, ...], doc("The command that is run by default.", ["/bin/bash"])] = ()
    entrypoint: Annotated[tuple[Text, ...], doc("The command that `cmd` is handed to.", ["/usr/bin/app"])] = ()
    env: Annotated[Mapping[Variable, Text], doc("The environment of the command.", {"LANG": "C.UTF-8"})] = {}
    user: Annotated[RunUser | None, doc("Whom the command runs as; root where left out.", "app")] = None
    workdir: Annotated[ImagePath | None, doc("The folder in which the command starts.", "/srv")] = None
    labels: Annotated[
        Mapping[Label, Text], doc("Labels of the image.", {"org.opencontainers.image.title": "Application"})
    ] = {}
    tags: Annotated[tuple[Tag, ...], doc("References under which the image is kept.", ["ubuntu-min:noble"])] = ()


class Limits(Part, frozen=True, kw_only=True):
    """What the result may not exceed; a build that does names the packages to blame."""

    rootfs: Annotated[Size | None, doc("The size of the tree.", "180M")] = None
    packages: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None, doc("The number of installed packages.", 120)
    ] = None


class Recipe(Part, frozen=True, kw_only=True):
    """A small Linux system: what it is made of, how it is set up and what comes out."""

    version: Annotated[Literal[1], doc("The version of this format.", 1)]
    name: Annotated[Name, doc("Its name: of the output folder, and of the image.", "ubuntu-min")]
    extends: Annotated[
        tuple[Text, ...],
        doc(
            "Recipes to start from, relative to this file. Lists are joined and `-name` takes an inherited item out; "
            "keys of maps are merged; `null` takes an inherited key out.",
            ["base.yaml"],
        ),
    ] = ()
    vars: Annotated[
        Mapping[Text, Text],
        doc("Variables, used as `${name}`, and set by `-D name=value`. `$${` is a `${` itself.", {"release": "noble"}),
    ] = {}
    distro: Annotated[Literal["debian", "ubuntu"], doc("The distribution.")]
    suite: Annotated[Suite, doc("Its suite or codename.", "noble", "trixie")]
    arch: Annotated[
        tuple[Arch, ...], Meta(min_length=1, description="Architectures to build for.", examples=[["amd64"]])
    ] = (Arch("amd64"),)
    components: Annotated[
        tuple[Component, ...],
        Meta(min_length=1, description="The archive's components.", examples=[["main", "universe"]]),
    ] = (Component("main"),)
    pockets: Annotated[
        tuple[Pocket, ...], doc("Suites beside the release's own; `[]` for the release alone.", ["updates"], [])
    ] = ("updates", "security")
    mirror: Annotated[
        Url | None,
        doc(
            "The archive's address, where not the one that mkroot finds. No part of the lock.",
            "http://mirror.example/ubuntu",
        ),
    ] = None
    keyring: Annotated[
        LocalPath | None,
        doc("The keys that may sign the archive, where not the distribution's own.", "./keys.gpg"),
    ] = None
    snapshot: Annotated[
        Snapshot | None, doc("Take every pocket as it was at this time, not as it is now.", "20261101T000000Z")
    ] = None
    sources: Annotated[
        tuple[Source, ...],
        doc(
            "Further repositories.",
            [{"id": "tool", "uri": "https://mirror.example/tool", "suites": ["stable"], "key": {"file": "tool.asc"}}],
        ),
    ] = ()
    pins: Annotated[
        tuple[Pin, ...],
        doc("Priorities of versions.", [{"package": "nginx*", "source": "tool", "priority": 990}]),
    ] = ()
    packages: Annotated[Packages, doc("What is installed.")] = Packages()
    configure: Annotated[
        Literal["scripts", "static", "none"],
        doc(
            "The image's own dpkg runs the packages' `scripts`; or no script runs and mkroot makes the few things that "
            "matter (`static`, for distroless images); or packages are unpacked only (`none`)."
        ),
    ] = "scripts"
    apt: Annotated[Apt, doc("apt inside the image.")] = Apt()
    trim: Annotated[Trim, doc("What is left out of the image.")] = Trim()
    config: Annotated[Config, doc("What is set in the configured system.")] = Config()
    hooks: Annotated[tuple[Hook, ...], doc("Scripts of the recipe.", [{"at": "configured", "run": "./setup.sh"}])] = ()
    image: Annotated[Image, doc("The OCI image.")] = Image()
    boot: Annotated[Boot | None, doc("How the system boots; left out for containers.")] = None
    disk: Annotated[Disk, doc("The disk.")] = Disk()
    outputs: Annotated[tuple[OutputKind, ...], doc("What is made.", ["tar.zst", "oci"])] = ("tar.zst",)
    limits: Annotated[Limits, doc("What the result may not exceed.")] = Limits()
    test: Annotated[Test, doc("What `mkroot test` asks of the booted system.")] = Test()
