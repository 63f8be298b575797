"""Which image stands on which: its layers are the first of the other's."""

from __future__ import annotations

from msgspec import Struct

from mkroot.oci.model import REF_NAME
from mkroot.oci.store import Image, ImageStore, load_image, platforms_of


class Kin(Struct, frozen=True, kw_only=True):
    """An image and those that stand on it.

    references: its tags, sorted. layers: how many. size: bytes of its compressed layers; own: of those that the image
    above it in the tree has not.
    """

    digest: str
    references: tuple[str, ...]
    created: str
    layers: int
    size: int
    own: int
    children: tuple[Kin, ...] = ()


def descent(images: ImageStore) -> list[Kin]:
    """Return the images that stand on no other, each with those that stand on it; raises ImageError.

    Where two have the same layers, the one made later stands on the earlier. An image for several platforms is in the
    tree once for each.
    """
    layout = images.layout()
    tags: dict[str, set[str]] = {}
    found: dict[str, Image] = {}
    for descriptor in layout.index().manifests:
        name = descriptor.annotations.get(REF_NAME, "")
        for child in platforms_of(layout, descriptor):
            tags.setdefault(child.digest, set()).update({name} - {""})
            if child.digest not in found:
                found[child.digest] = load_image(layout, child)
    chains = {digest: image.config.rootfs.diff_ids for digest, image in found.items()}

    def rank(digest: str) -> tuple[int, str, str]:
        return len(chains[digest]), found[digest].config.created, digest

    order = sorted(found, key=rank)
    below: dict[str, list[str]] = {}
    over: dict[str, str] = {}
    seen: dict[tuple[str, ...], list[str]] = {}  # the images so far by their layers
    for digest in order:
        chain = tuple(chains[digest])
        nearest = next((seen[chain[:n]] for n in range(len(chain), 0, -1) if chain[:n] in seen), None)
        if nearest is not None:
            over[digest] = _maker(found, digest, nearest)
            below.setdefault(over[digest], []).append(digest)
        seen.setdefault(chain, []).append(digest)

    def kin(digest: str) -> Kin:
        sizes = [layer.size for layer in found[digest].manifest.layers]
        shared = len(chains[over[digest]]) if digest in over else 0
        return Kin(
            digest=digest,
            references=tuple(sorted(tags[digest])),
            created=found[digest].config.created,
            layers=len(sizes),
            size=sum(sizes),
            own=sum(sizes[shared:]),
            children=tuple(sorted(map(kin, below.get(digest, ())), key=_shown)),
        )

    return sorted((kin(d) for d in order if d not in over), key=_shown)


def _maker(found: dict[str, Image], digest: str, nearest: list[str]) -> str:
    """Return which of several images with the same layers another was made of: the one with the most of its history."""
    told = found[digest].config.history
    fitting = [o for o in nearest if told[: len(found[o].config.history)] == found[o].config.history]
    return max(fitting, key=lambda o: len(found[o].config.history)) if fitting else nearest[0]


def _shown(kin: Kin) -> tuple[bool, tuple[str, ...], str]:
    return not kin.references, kin.references, kin.digest
