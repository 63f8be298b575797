"""Which image a word means: a name, a digest, or the beginning of an id; and which names come near."""

from __future__ import annotations

from collections.abc import Iterable

from mkroot.errors import ImageError
from mkroot.oci.layout import Layout
from mkroot.oci.model import MANIFESTS, REF_NAME, Descriptor, decode_manifest
from mkroot.oci.reference import Reference

LEAST = 4  # hexadecimal digits of a digest that must be given at least


def named_by(text: str, manifests: Iterable[Descriptor]) -> Descriptor | None:
    """Return the image of a tag, or of a name and digest; None where there is none.

    Raises ImageError for what can be nothing else than a reference and is no valid one.
    """
    try:
        wanted = Reference.parse(text)
    except ImageError:
        if "/" in text or ":" in text.removeprefix("sha256:"):
            raise
        return None
    for descriptor in manifests:
        name = descriptor.annotations.get(REF_NAME, "")
        if wanted.digest:
            if descriptor.digest == wanted.digest and (not name or Reference.parse(name).name == wanted.name):
                return descriptor
        elif name == wanted.tagged:
            return descriptor
    return None


def numbered(layout: Layout, text: str, manifests: Iterable[Descriptor]) -> Descriptor | None:
    """Return the image whose digest, or whose config's, begins so; raises ImageError where several do."""
    prefix = text.removeprefix("sha256:")
    if len(prefix) < LEAST or prefix.strip("0123456789abcdef"):
        return None
    found: dict[str, Descriptor] = {}
    for descriptor in manifests:
        ids = [descriptor.hex]
        if descriptor.media_type in MANIFESTS:
            ids.append(decode_manifest(layout.read(descriptor), descriptor.digest).config.hex)
        if any(i.startswith(prefix) for i in ids):
            found.setdefault(descriptor.digest, descriptor)
    if len(found) > 1:
        raise ImageError(f"`{text}` begins the ids of {len(found)} images", hint="give more digits")
    return next(iter(found.values()), None)


def unknown(text: str, manifests: Iterable[Descriptor]) -> ImageError:
    """Return the error for a name that no image has, with the names that come near."""
    import difflib

    names = sorted({d.annotations.get(REF_NAME, "") for d in manifests} - {""})
    bare = text.rpartition("/")[2].partition(":")[0].partition("@")[0]
    near = [n for n in names if bare and n.rpartition("/")[2].partition(":")[0] == bare][:3]
    near += [n for n in difflib.get_close_matches(text, names, 3) if n not in near]
    if not near:  # a name without its tag, or without its registry
        short = {n.rpartition("/")[2].partition(":")[0]: n for n in reversed(names)}
        near = [short[n] for n in difflib.get_close_matches(bare, list(short), 3)]
    hint = f"did you mean {' or '.join(f'`{n}`' for n in near[:3])}? " if near else ""
    return ImageError(f"there is no image `{text}`", hint=f"{hint}`mkroot images` lists those that there are")
