"""The image kinds of artifacts, and the way of a build's image into the image store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from mkroot.artifact.kinds import makers as root_makers
from mkroot.artifact.manifest import Facts, Made
from mkroot.artifact.outputs import Bench, Maker, Outputs, write_outputs
from mkroot.artifact.provenance import Provenance
from mkroot.artifact.tools import Tools
from mkroot.oci.archives import write_docker_archive, write_oci_archive
from mkroot.oci.build import Built, ImageSettings, build_image, link_blobs, reference_of
from mkroot.oci.layout import Layout
from mkroot.oci.model import Descriptor, named
from mkroot.oci.reference import Reference
from mkroot.oci.store import ImageStore
from mkroot.progress import Progress
from mkroot.rootfs.assembly import Assembly

KINDS = ("oci", "oci-archive", "docker-archive")


class Issued(Outputs, frozen=True, kw_only=True):
    """Outputs, and the image that reached the image store, under these tags in full; None where none did."""

    image: Built | None = None
    tags: tuple[str, ...] = ()


def image_makers(settings: ImageSettings) -> dict[str, Maker]:
    """Return the makers of the image kinds."""

    def make_oci(bench: Bench) -> Made:
        built = build_image(bench, settings)
        layout = Layout.create(bench.folder / "oci")
        link_blobs(built, layout)
        layout.write_index([named(built.manifest, reference_of(settings, bench.facts.name))], sync=False)
        return Made(kind="oci", name="oci", size=built.size, digest=built.manifest.digest)

    def make_oci_archive(bench: Bench) -> Made:
        built = build_image(bench, settings)
        name = reference_of(settings, bench.facts.name)
        size, digest = write_oci_archive(built, name, bench.folder / "oci.tar", bench.epoch)
        return Made(kind="oci-archive", name="oci.tar", size=size, digest=digest)

    def make_docker_archive(bench: Bench) -> Made:
        built = build_image(bench, settings)
        layers: Iterable[Iterable[bytes]] = (
            bench.assembly.raw(group) for group in bench.assembly.groups(settings.by, settings.budget)
        )
        if settings.parent is not None:
            built, layers = _whole(built, layers)
        references = settings.tags or (reference_of(settings, bench.facts.name),)
        size, digest = write_docker_archive(built, references, layers, bench.folder / "docker.tar", bench.epoch)
        return Made(kind="docker-archive", name="docker.tar", size=size, digest=digest)

    return {"oci": make_oci, "oci-archive": make_oci_archive, "docker-archive": make_docker_archive}


def _whole(built: Built, own: Iterable[Iterable[bytes]]) -> tuple[Built, Iterable[Iterable[bytes]]]:
    """Return an image on a parent with the sizes of all its layers, and all their uncompressed streams."""
    from mkroot.oci.validate import codec_of, unpacked

    def stream(layer: Descriptor) -> Iterator[bytes]:
        return unpacked(built.layout.path(layer.digest), codec_of(layer.media_type))

    parents = built.layers[: len(built.layers) - len(built.raw_sizes)]
    sizes = tuple(sum(map(len, stream(layer))) for layer in parents)
    whole = msgspec.structs.replace(built, raw_sizes=(*sizes, *built.raw_sizes))
    return whole, chain(map(stream, parents), own)


def write_build(
    assembly: Assembly,
    facts: Facts,
    settings: ImageSettings,
    out: Path,
    kinds: Sequence[str],
    *,
    provenance: Provenance | None = None,
    images: ImageStore | None = None,
    siblings: list[Descriptor] | None = None,
    makers: dict[str, Maker] | None = None,
    tools: Tools | None = None,
    progress: Progress | None = None,
) -> Issued:
    """Make a build's artifacts, and fill the image store where the build has an `oci` output or tags.

    provenance: the record that stands beside the artifacts; None writes none.
    images: the image store; None fills none. siblings: the images that the same build has made for other architectures,
    to which this one is added: with several, tags name an index of them all. makers: further kinds by name.
    The image reaches the store before the output folder takes its place, its tags after: what fails leaves no tag that
    names something else. Raises ArtifactError, ImageError, StoreError.
    """
    settings = _normal(settings)
    stored: list[Built] = []

    def keep(bench: Bench) -> None:
        if images is not None and ("oci" in kinds or settings.tags):
            with bench.progress.timed("store", "the image"):
                stored.append(build_image(bench, settings))
                images.add_blobs(stored[0].layout, stored[0].blobs)

    every = {**root_makers(), **image_makers(settings), **(makers or {})}
    with contextlib.nullcontext() if images is None else images.using():
        outputs = write_outputs(
            assembly,
            facts,
            out,
            kinds,
            every,
            provenance=provenance,
            tools=tools,
            progress=progress,
            before_swap=(keep,),
        )
        tags = settings.tags or (reference_of(settings, facts.name),)
        for built in stored:
            siblings = [] if siblings is None else siblings
            siblings.append(built.manifest)
            for tag in tags:
                images.tag_platforms(siblings, Reference.parse(tag))  # type: ignore[union-attr]
    known = {name: getattr(outputs, name) for name in Outputs.__struct_fields__}
    return Issued(**known, image=stored[0] if stored else None, tags=tags)


def _normal(settings: ImageSettings) -> ImageSettings:
    """Return the settings with tags in full, `:latest` where none is named; raises ImageError."""
    tags = tuple(dict.fromkeys(Reference.parse(tag).tagged for tag in settings.tags))
    return msgspec.structs.replace(settings, tags=tags)
