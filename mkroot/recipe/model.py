"""The recipe as a value: every key, what it takes and what it means.

The JSON Schema and docs/recipe.md are made from these types, so a key's description here is its documentation.
"""

# No `from __future__ import annotations`: msgspec would have to evaluate each of them again, which takes 5 ms.
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from mkroot.recipe.numbers import DiskSize, Duration, Mode, Size
from mkroot.recipe.values import (
    MAX_ID,
    AccountName,
    AptMirror,
    Arch,
    BootRoot,
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
    OneLine,
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


def _key(description: str, *examples: Any) -> Meta:
    return Meta(description=description, examples=list(examples) or None)


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class SourceKey(_Part, frozen=True, kw_only=True):
    """Who may sign a further repository."""

    file: Annotated[LocalPath, _key("The key, armoured or binary.", "tool.asc")]
    fingerprint: Annotated[
        Fingerprint | None,
        _key(
            "The key's whole fingerprint; a file that holds another key is refused.",
            "0123456789ABCDEF0123456789ABCDEF01234567",
        ),
    ] = None


class Source(_Part, frozen=True, kw_only=True):
    """A further repository."""

    id: Annotated[Id, _key("Its name in this recipe, in pins and in the lock.", "tool")]
    uri: Annotated[Url, _key("Its address.", "https://mirror.example/tool")]
    suites: Annotated[
        tuple[SourceSuite, ...],
        Meta(min_length=1, description="Its suites; `./` for a flat repository.", examples=[["stable"]]),
    ]
    components: Annotated[
        tuple[Component, ...], _key("Its components; a flat repository has none.", ["main"], ["main", "contrib"])
    ] = (Component("main"),)
    key: Annotated[
        SourceKey | None,
        _key("Who may sign it; without it, the keys that sign the distribution itself.", {"file": "tool.asc"}),
    ] = None
    trusted: Annotated[bool, _key("Take it without a signature. Nothing else makes an unsigned repository usable.")] = (
        False
    )
    keep: Annotated[bool, _key("Leave it among the apt sources of the image.")] = False


class Pin(_Part, frozen=True, kw_only=True):
    """A priority for the versions of some packages, as apt_preferences(5) has it."""

    package: Annotated[PackageGlob, _key("The packages meant.", "nginx*")]
    source: Annotated[
        Id, _key("Where the versions come from: the `id` of a source, or the distribution's own name.", "tool")
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


class Packages(_Part, frozen=True, kw_only=True):
    """What is installed."""

    variant: Annotated[
        Variant,
        _key(
            "The set to start from, as mmdebstrap defines it. `none` is the includes and their dependencies and "
            "nothing else, not even Essential packages. Default `minbase`; on a parent image `none`."
        ),
    ] = "minbase"
    include: Annotated[
        tuple[Want, ...],
        _key(
            "Packages to add: by name, with `=version` or a glob for it, with `/suite`, with `:arch`, or as the path "
            "of a local .deb.",
            ["openssh-server", "curl=8.*", "vim/noble-updates", "./local.deb"],
        ),
    ] = ()
    exclude: Annotated[
        tuple[PackageName, ...], _key("Packages that must not be installed; what needs them is an error.", ["tzdata"])
    ] = ()
    recommends: Annotated[bool, _key("Install recommended packages as well.")] = False


class Apt(_Part, frozen=True, kw_only=True):
    """apt inside the image."""

    mirror: Annotated[
        AptMirror,
        _key(
            "The address that is written into an image that has apt: the mirror `used` by this build, with any "
            "password removed; `none`; or an address.",
            "https://mirror.example/ubuntu",
        ),
    ] = AptMirror("used")


class Trim(_Part, frozen=True, kw_only=True):
    """What is left out of the image. Copyright files always stay."""

    docs: Annotated[bool, _key("Remove /usr/share/doc, info and the like.")] = False
    man: Annotated[bool, _key("Remove the manual pages.")] = False
    locales: Annotated[
        tuple[Locale, ...] | None,
        _key("Keep the translations for these only; an empty list keeps none.", ["C.UTF-8"]),
    ] = None
    paths: Annotated[tuple[PathGlob, ...], _key("Remove what matches.", ["/usr/share/x/**"])] = ()


class Group(_Part, frozen=True, kw_only=True):
    """A group."""

    name: Annotated[AccountName, _key("Its name.", "app")]
    gid: Annotated[AccountId | None, _key("Its number; the next free one from 1,000 up where left out.", 10000)] = None


class User(_Part, frozen=True, kw_only=True):
    """A user."""

    name: Annotated[AccountName, _key("The login name.", "app")]
    uid: Annotated[AccountId | None, _key("The user id; the next free one from 1,000 up where left out.", 10000)] = None
    group: Annotated[
        AccountName | None, _key("The primary group; where left out, one of the user's own name and number.", "staff")
    ] = None
    groups: Annotated[tuple[AccountName, ...], _key("Further groups, of the recipe or of a package.", ["sudo"])] = ()
    comment: Annotated[Gecos, _key("The comment field of passwd(5).", "The application")] = Gecos("")
    home: Annotated[ImagePath | None, _key("The home folder; `/home/NAME` where left out.", "/srv/app")] = None
    shell: Annotated[ImagePath, _key("The login shell.", "/bin/bash")] = ImagePath("/bin/sh")
    password: Annotated[
        Password, _key("`locked` (none is valid), `empty` (none is asked for), or a hash by crypt(5).", "locked")
    ] = Password("locked")
    ssh_keys: Annotated[
        tuple[LocalPath, ...], _key("Public key files; they become the user's authorized_keys.", ["me.pub"])
    ] = ()


class File(_Part, frozen=True, kw_only=True):
    """A file, tree, folder or link to put into the image: exactly one of `content`, `from`, `link`, `directory`."""

    path: Annotated[ImagePath, _key("Where it is put.", "/etc/motd")]
    content: Annotated[Text | None, _key("Its content.", "hi\n")] = None
    source: Annotated[LocalPath | None, _key("A file or a folder to copy, with all that is in it.", "./tree")] = field(
        default=None, name="from"
    )
    link: Annotated[LinkTarget | None, _key("Make it a symbolic link to this.", "/run/x")] = None
    directory: Annotated[bool, _key("Make it a folder.")] = False
    mode: Annotated[
        Mode | None,
        _key("Octal, between quotes. Where left out: 0644, a folder 0755, and what is copied keeps its own.", "0644"),
    ] = None
    owner: Annotated[Owner, _key("`user:group`, by name or number; the group is the user's where left out.", "app")] = (
        Owner("root:root")
    )


class Services(_Part, frozen=True, kw_only=True):
    """systemd units; `.service` is understood where no kind is named."""

    enable: Annotated[tuple[Unit, ...], _key("Started at boot.", ["ssh"])] = ()
    disable: Annotated[tuple[Unit, ...], _key("Not started at boot.", ["apt-daily.timer"])] = ()
    mask: Annotated[tuple[Unit, ...], _key("Never started, not even by another unit.", ["tmp.mount"])] = ()


class Config(_Part, frozen=True, kw_only=True):
    """What is set in the configured system."""

    hostname: Annotated[Hostname | None, _key("The host name.", "box")] = None
    timezone: Annotated[TimeZone | None, _key("The time zone.", "Etc/UTC")] = None
    locale: Annotated[Locale | None, _key("The system's locale.", "C.UTF-8")] = None
    groups: Annotated[tuple[Group, ...], _key("Groups to make or to change.", [{"name": "app", "gid": 10000}])] = ()
    users: Annotated[tuple[User, ...], _key("Users to make or to change.", [{"name": "app", "uid": 10000}])] = ()
    files: Annotated[
        tuple[File, ...], _key("Files to put into the image.", [{"path": "/etc/motd", "content": "hi\n"}])
    ] = ()
    services: Annotated[Services, _key("systemd units.")] = Services()


class Hook(_Part, frozen=True, kw_only=True):
    """A script of the recipe, run inside the image as its root."""

    at: Annotated[
        Literal["unpacked", "configured", "final"],
        _key(
            "When: packages `unpacked`, packages `configured`, or `final`, after the recipe's own config and before "
            "the trim."
        ),
    ]
    run: Annotated[LocalPath, _key("The script.", "./setup.sh")]
    network: Annotated[bool, _key("Give it the network; what it fetches is in no lock.")] = False


class Layers(_Part, frozen=True, kw_only=True):
    """How the image is cut into layers."""

    by: Annotated[Literal["single", "source"], _key("One layer, or packages grouped by source package.")] = "single"
    budget: Annotated[
        int, Meta(ge=2, le=120, description="The most layers to make, with `by: source`.", examples=[10])
    ] = 10
    single_stream: Annotated[
        bool, _key("Compress a layer as one stream, for readers that do not take joined frames.")
    ] = field(default=False, name="single-stream")


class Image(_Part, frozen=True, kw_only=True):
    """The OCI image."""

    parent: Annotated[
        Parent, _key("`none` makes a base image; a reference is built upon and its layers are kept.", "debian:trixie")
    ] = field(default=Parent("none"), name="from")
    layers: Annotated[Layers, _key("How it is cut into layers.")] = Layers()
    compression: Annotated[Literal["gzip", "zstd", "none"], _key("How its layers are compressed.")] = "gzip"
    cmd: Annotated[tuple[Text, ...], _key("The command that is run by default.", ["/bin/bash"])] = ()
    entrypoint: Annotated[tuple[Text, ...], _key("The command that `cmd` is handed to.", ["/usr/bin/app"])] = ()
    env: Annotated[Mapping[Variable, Text], _key("The environment of the command.", {"LANG": "C.UTF-8"})] = {}
    user: Annotated[RunUser | None, _key("Whom the command runs as; root where left out.", "app")] = None
    workdir: Annotated[ImagePath | None, _key("The folder in which the command starts.", "/srv")] = None
    labels: Annotated[
        Mapping[Label, Text], _key("Labels of the image.", {"org.opencontainers.image.title": "Application"})
    ] = {}
    tags: Annotated[tuple[Tag, ...], _key("References under which the image is kept.", ["ubuntu-min:noble"])] = ()


class Boot(_Part, frozen=True, kw_only=True):
    """How the system boots; left out for containers."""

    kernel: Annotated[PackageName, _key("The kernel's package; it becomes part of the lock.", "linux-image-virtual")]
    initramfs: Annotated[
        Literal["mkroot", "distro", "none"],
        _key(
            "Made by mkroot for this machine, by the distribution's own tool in the image, or `none` where the kernel "
            "can mount the root by itself."
        ),
    ] = "mkroot"
    firmware: Annotated[Literal["uefi", "bios"], _key("The machine's firmware.")] = "uefi"
    loader: Annotated[
        Literal["direct", "systemd-boot", "uki", "grub"],
        _key("The boot loader; `direct` has QEMU load the kernel. Default `systemd-boot`, with `bios` `grub`."),
    ] = "systemd-boot"
    cmdline: Annotated[
        OneLine, _key("The kernel's command line; `root=` is added unless it is there.", "console=ttyS0")
    ] = OneLine("")
    rootfs: Annotated[
        BootRoot, _key("What boots: this recipe's `own` tree, or that of an image.", "image:debian:trixie")
    ] = BootRoot("own")


class Disk(_Part, frozen=True, kw_only=True):
    """The disk of `disk.raw` and `disk.qcow2`, and the root of anything that boots."""

    size: Annotated[
        DiskSize, _key("The disk's size; `minimal` (0 bytes here) fits it to what it holds.", "minimal", "2G")
    ] = DiskSize(0)
    root: Annotated[Literal["ext4", "squashfs", "erofs"], _key("The root file system.")] = "ext4"
    overlay: Annotated[
        bool,
        _key("Keep the root read-only, under an overlay in memory. Default `true` with `squashfs` and `erofs`."),
    ] = False


class Limits(_Part, frozen=True, kw_only=True):
    """What the result may not exceed; a build that does names the packages to blame."""

    rootfs: Annotated[Size | None, _key("The size of the tree.", "180M")] = None
    packages: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None, _key("The number of installed packages.", 120)
    ] = None


class Check(_Part, frozen=True, kw_only=True):
    """A command that the guest runs."""

    cmd: Annotated[OneLine, _key("The command, for the guest's shell.", "systemctl is-system-running --wait")]
    exit: Annotated[int, Meta(ge=0, le=255, description="The exit status that it must have.", examples=[0])] = 0


class Test(_Part, frozen=True, kw_only=True):
    """What `mkroot test` asks of the booted system."""

    __test__ = False  # not a test case of pytest

    memory: Annotated[Size, _key("The guest's memory.", "512M")] = Size(512 << 20)
    timeout: Annotated[Duration, _key("The most time until the verdict.", 120, "5m")] = Duration(120)
    expect: Annotated[tuple[Text, ...], _key("Text that the console must show.", ["login:"])] = ()
    reject: Annotated[tuple[Text, ...], _key("Text that the console must not show.", ["Kernel panic"])] = ()
    run: Annotated[
        tuple[Check, ...], _key("Commands that the guest runs.", [{"cmd": "systemctl is-active ssh", "exit": 0}])
    ] = ()


class Recipe(_Part, frozen=True, kw_only=True):
    """A small Linux system: what it is made of, how it is set up and what comes out."""

    version: Annotated[Literal[1], _key("The version of this format.", 1)]
    name: Annotated[Name, _key("Its name: of the output folder, and of the image.", "ubuntu-min")]
    extends: Annotated[
        tuple[Text, ...],
        _key(
            "Recipes to start from, relative to this file. Lists are joined and `-name` takes an inherited item out; "
            "keys of maps are merged; `null` takes an inherited key out.",
            ["base.yaml"],
        ),
    ] = ()
    vars: Annotated[
        Mapping[Text, Text],
        _key("Variables, used as `${name}`, and set by `-D name=value`. `$${` is a `${` itself.", {"release": "noble"}),
    ] = {}
    distro: Annotated[Literal["debian", "ubuntu"], _key("The distribution.")]
    suite: Annotated[Suite, _key("Its suite or codename.", "noble", "trixie")]
    arch: Annotated[
        tuple[Arch, ...], Meta(min_length=1, description="Architectures to build for.", examples=[["amd64"]])
    ] = (Arch("amd64"),)
    components: Annotated[
        tuple[Component, ...],
        Meta(min_length=1, description="The archive's components.", examples=[["main", "universe"]]),
    ] = (Component("main"),)
    pockets: Annotated[
        tuple[Pocket, ...], _key("Suites beside the release's own; `[]` for the release alone.", ["updates"], [])
    ] = ("updates", "security")
    mirror: Annotated[
        Url | None,
        _key(
            "The archive's address, where not the one that mkroot finds. No part of the lock.",
            "http://mirror.example/ubuntu",
        ),
    ] = None
    keyring: Annotated[
        LocalPath | None,
        _key("The keys that may sign the archive, where not the distribution's own.", "./keys.gpg"),
    ] = None
    snapshot: Annotated[
        Snapshot | None, _key("Take every pocket as it was at this time, not as it is now.", "20261101T000000Z")
    ] = None
    sources: Annotated[
        tuple[Source, ...],
        _key(
            "Further repositories.",
            [{"id": "tool", "uri": "https://mirror.example/tool", "suites": ["stable"], "key": {"file": "tool.asc"}}],
        ),
    ] = ()
    pins: Annotated[
        tuple[Pin, ...],
        _key("Priorities of versions.", [{"package": "nginx*", "source": "tool", "priority": 990}]),
    ] = ()
    packages: Annotated[Packages, _key("What is installed.")] = Packages()
    configure: Annotated[
        Literal["scripts", "static", "none"],
        _key(
            "The image's own dpkg runs the packages' `scripts`; or no script runs and mkroot makes the few things that "
            "matter (`static`, for distroless images); or packages are unpacked only (`none`)."
        ),
    ] = "scripts"
    apt: Annotated[Apt, _key("apt inside the image.")] = Apt()
    trim: Annotated[Trim, _key("What is left out of the image.")] = Trim()
    config: Annotated[Config, _key("What is set in the configured system.")] = Config()
    hooks: Annotated[tuple[Hook, ...], _key("Scripts of the recipe.", [{"at": "configured", "run": "./setup.sh"}])] = ()
    image: Annotated[Image, _key("The OCI image.")] = Image()
    boot: Annotated[Boot | None, _key("How the system boots; left out for containers.")] = None
    disk: Annotated[Disk, _key("The disk.")] = Disk()
    outputs: Annotated[tuple[OutputKind, ...], _key("What is made.", ["tar.zst", "oci"])] = ("tar.zst",)
    limits: Annotated[Limits, _key("What the result may not exceed.")] = Limits()
    test: Annotated[Test, _key("What `mkroot test` asks of the booted system.")] = Test()
