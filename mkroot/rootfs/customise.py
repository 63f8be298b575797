"""Sets up a configured root as the recipe says: host name, time zone, locale, accounts, files and services."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mkroot.errors import Faults, MkrootError
from mkroot.recipe.model import Config
from mkroot.rootfs.accounts import read_accounts
from mkroot.rootfs.files import apply_files
from mkroot.rootfs.inputs import Inputs
from mkroot.rootfs.recorder import Recorder
from mkroot.rootfs.services import apply_services
from mkroot.rootfs.system import Command, apply_hostname, apply_locale, apply_timezone
from mkroot.rootfs.tree import Tree
from mkroot.rootfs.users import apply_accounts

FORMAT = "1"  # of what customisation makes of the same inputs; part of the key of what it wrote


class Customised(msgspec.Struct, frozen=True):
    """What customisation did.

    origins: for each path written or removed, the recipe's key that asked for it. commands: programs of the image that
    must be run in the sandbox afterwards, in order. notes: what the user should know.
    """

    origins: dict[str, str]
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()


def customise(tree: Tree, config: Config, inputs: Inputs, *, epoch: int) -> Customised:
    """Write the recipe's `config` into a configured tree, in memory.

    inputs: what the recipe's local files hold (`read_inputs`). epoch: seconds, the date of what is written.
    Raises RecipeError naming the recipe's key, or Faults with all that is wrong; the tree is then of no use.
    """
    recorder = Recorder(tree)
    commands: list[Command] = []
    faults: list[MkrootError] = []

    def step(action: Callable[[], object]) -> bool:
        """Do a part and tell whether it went well."""
        before = len(faults)
        try:
            action()
        except Faults as several:
            faults.extend(several.faults)
        except MkrootError as e:
            faults.append(e)
        return len(faults) == before

    step(lambda: apply_hostname(recorder, config))
    step(lambda: apply_timezone(recorder, config))
    step(lambda: commands.extend(apply_locale(recorder, config)))
    if config.groups or config.users or config.files:
        accounts = read_accounts(tree, epoch)
        # Without its users every file that they own would be a fault as well.
        if step(lambda: apply_accounts(recorder, accounts, config, inputs.keys)):
            step(lambda: apply_files(recorder, accounts, config.files, inputs.trees))
    step(lambda: apply_services(recorder, config.services))
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)
    return Customised(recorder.origins, tuple(commands), tuple(recorder.notes))


def commands(tree: Tree, config: Config) -> tuple[Command, ...]:
    """Return the programs of the image that `customise` would ask for; the tree stays as it is. Raises RecipeError."""
    return tuple(apply_locale(Recorder(tree.copy()), config))
