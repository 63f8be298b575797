from mkroot.artifact.manifest import Made
from mkroot.artifact.outputs import Bench


def make_erofs(bench: Bench) -> Made:
    raise NotImplementedError
