"""What a recipe's `limits` say of a lock, before anything is built of it."""

from __future__ import annotations

from mkroot.errors import ResolutionError
from mkroot.recipe.model import Recipe
from mkroot.resolve.lock import LockedRoot


def check_limits(recipe: Recipe, root: LockedRoot) -> None:
    """Raise ResolutionError where the packages are more than the recipe's `limits` allow, naming those to blame."""
    limits = recipe.limits
    if limits.packages is not None and len(root.packages) > limits.packages:
        late = [p for p in root.packages if p.stage == "include"] or list(root.packages)
        lines = [f"  {p.name}: {p.why}" for p in late[:15]]
        raise ResolutionError(
            f"{len(root.packages)} packages are more than `limits.packages: {limits.packages}`; the recipe's own are\n"
            + "\n".join(lines),
            hint="`mkroot why RECIPE PACKAGE` tells the chain of any of them",
        )
    total = sum(p.installed_size for p in root.packages) * 1024
    if limits.rootfs is not None and total > limits.rootfs * 4:
        raise ResolutionError(
            f"the packages say that they take {total >> 20} MiB, far over `limits.rootfs`",
            hint="`mkroot size RECIPE` tells where the bytes come from",
        )
