"""All targets by name; the five formats that packages are made of first."""

from __future__ import annotations

from tests.fuzz import archives, images, packages, programs, recipes
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for module in (packages, archives, images, recipes, programs) for target in module.TARGETS
}
