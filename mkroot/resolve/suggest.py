"""Names near to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mkroot.resolve.universe import Universe


def nearest(name: str, names: Iterable[str], universe: Universe) -> str:
    """Return a hint: up to five packages like `name`, or what else it is there for, or where it was looked for."""
    known = list(names)
    if name in known:
        there = sorted({p.architecture for p in universe.packages(name)})
        return f"it is there for {', '.join(f'`{a}`' for a in there)} alone"
    starts = sorted(n for n in known if n.startswith(name) or name.startswith(n + "-"))[:3]
    small = [n for n in known if abs(len(n) - len(name)) <= 3 and (n[:1] == name[:1] or n[-3:] == name[-3:])]
    close = difflib.get_close_matches(name, small, n=5, cutoff=0.75)
    found = list(dict.fromkeys([*close, *starts]))[:5]
    if found:
        return "nearest names: " + ", ".join(f"`{n}`" for n in found)
    where = sorted({f"{i.suite}/{i.component}" for i in universe.indices})
    return "it is not in " + ", ".join(where[:20])
