from mkroot.artifact.outputs import Bench
from mkroot.artifact.manifest import Made
def make_erofs(bench: Bench) -> Made:
    raise NotImplementedError
