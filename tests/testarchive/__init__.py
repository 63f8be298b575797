"""A signed archive in miniature, made on the fly: real .debs, real indices, real signatures, no network."""

from tests.testarchive.archive import DATE, Archive, Built, Suite
from tests.testarchive.deb import MTIME, Content, File, Raw, ar, compress, member, tar
from tests.testarchive.openpgp import DAY, Key, Signing, armor, clearsign, detached
from tests.testarchive.server import Fault, Server

__all__ = [
    "DATE",
    "DAY",
    "MTIME",
    "Archive",
    "Built",
    "Content",
    "Fault",
    "File",
    "Key",
    "Raw",
    "Server",
    "Signing",
    "Suite",
    "ar",
    "armor",
    "clearsign",
    "compress",
    "detached",
    "member",
    "tar",
]
