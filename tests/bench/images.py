"""The image model: containers, commits and pushes, against podman and skopeo with the same image."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.measure import Contender, Failed
from tests.bench.works import MKROOT, UBUNTU, Site
from tests.unit.partial import of_file

NEEDED = ("podman", "crun", "skopeo", "docker-registry")
BASE = "bench:base"
INSTALL = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install vim >/dev/null 2>&1"
_LIMITS = ["--cgroups", "disabled", "--log-driver", "none", "--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256"]


class Bench:
    """A store with the base image, podman with the same one, and a registry on loopback."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.work = site.work / "images"
        self.work.mkdir(exist_ok=True)
        self.environ = site.environ(self.work / "store")
        self._registry: subprocess.Popen[bytes] | None = None
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.remote = f"127.0.0.1:{self.port}/team/base:1"

    def mkroot(self, *words: str) -> str:
        """Run mkroot and return what it prints; raises CalledProcessError."""
        words = (MKROOT, *words)
        environ = {**os.environ, **self.environ}
        return subprocess.run(words, check=True, env=environ, capture_output=True, text=True).stdout

    def podman(self, *words: str) -> list[str]:
        """Return a command of podman's, whose images and containers are the bench's own.

        In a mount namespace in which control groups are not hybrid: Debian 12's crun refuses those.
        """
        alone = ["unshare", "-m", "sh", "-c", 'umount -q /sys/fs/cgroup/unified; exec "$@"', "-"]
        own = ["--root", str(self.work / "graph"), "--runroot", str(self.work / "run")]
        own += ["--tmpdir", str(self.work / "tmp"), "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"]
        return [*alone, "podman", *own, "--events-backend", "none", *words]

    def prepare(self) -> None:
        """Build the base, and install vim in a container of it: with mkroot, and with podman."""
        recipe = self.recipe("base", tags=[BASE])
        self.mkroot("build", "-o", str(self.work / "out"), "--no-lock", str(recipe))
        for folder in ("graph", "run", "tmp"):
            shutil.rmtree(self.work / folder, ignore_errors=True)
        with contextlib.suppress(subprocess.CalledProcessError):
            self.mkroot("rm", "-f", "vim")
        self.mkroot("run", "--name", "vim", BASE, "/bin/sh", "-c", INSTALL)
        log = open(self.site.log, "ab")  # noqa: SIM115  # it outlives this line
        image = subprocess.run(
            self.podman("pull", "-q", f"oci:{self.work}/store/oci:{BASE}"), check=True, capture_output=True, text=True
        ).stdout.strip()
        subprocess.run(self.podman("tag", image, BASE), check=True, stdout=log, stderr=log)
        words = ["run", "--network", "host", *_LIMITS, "--name", "vim", BASE, "/bin/sh", "-c", INSTALL]
        subprocess.run(self.podman(*words), check=True, stdout=log, stderr=log)
        log.close()

    def recipe(self, name: str, include: tuple[str, ...] = (), **image: Any) -> Path:
        """Write a recipe of an Ubuntu base image with apt."""
        packages = {"variant": "minbase", "include": ["apt", "ubuntu-keyring", *include]}
        return self.site.recipe(
            UBUNTU, f"image-{name}", components=["main"], packages=packages, apt={"mirror": "used"}, image=image,
            outputs=["oci"],
        )  # fmt: skip

    # ---- the registry

    def empty_registry(self) -> None:
        """Start the registry anew, with nothing in it."""
        self.stop()
        data = self.work / "registry"
        shutil.rmtree(data, ignore_errors=True)
        config = self.work / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {data}}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}', secret: {'s' * 32}}}\n"
        )
        with open(self.site.log, "ab") as log:
            self._registry = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise Failed("the registry does not start")

    def stop(self) -> None:
        """Stop the registry."""
        if self._registry is not None:
            self._registry.terminate()
            self._registry.wait()
            self._registry = None


@contextlib.contextmanager
def benched(site: Site) -> Iterator[Bench]:
    """Prepare everything; stop the registry at the end."""
    bench = Bench(site)
    try:
        bench.prepare()
        bench.empty_registry()
        bench.mkroot("tag", BASE, bench.remote)
        yield bench
    finally:
        bench.stop()


def runs(bench: Bench) -> list[Contender]:
    """A command that does nothing, in a container of a known image."""
    return [
        Contender("mkroot run --rm", [[MKROOT, "run", "--rm", BASE, "/bin/true"]], bench.environ),
        Contender("podman run --rm", [bench.podman("run", "--rm", "--network", "host", *_LIMITS, BASE, "/bin/true")]),
    ]


def commits(bench: Bench) -> list[Contender]:
    """An image of the container in which vim was installed."""

    def forget() -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            bench.mkroot("rmi", "-f", "bench:vim")
        subprocess.run(bench.podman("rmi", "-f", "bench:vim"), check=False, capture_output=True)

    plain = [MKROOT, "commit", "--compression", "none", "vim", "bench:vim"]
    zstd = [MKROOT, "commit", "--compression", "zstd", "vim", "bench:vim"]
    return [
        Contender("mkroot commit, gzip", [[MKROOT, "commit", "vim", "bench:vim"]], bench.environ, before=forget),
        Contender("mkroot commit, zstd", [zstd], bench.environ, before=forget),
        Contender("mkroot commit, not compressed", [plain], bench.environ, before=forget),
        Contender("podman commit, not compressed", [bench.podman("commit", "-q", "vim", "bench:vim")], before=forget),
    ]


def pushes(bench: Bench) -> list[Contender]:
    """The base to an empty registry."""
    source = f"oci:{bench.work}/store/oci:{BASE}"
    skopeo = ["skopeo", "copy", "-q", "--dest-tls-verify=false", source, f"docker://{bench.remote}"]
    return [
        Contender("mkroot push", [[MKROOT, "push", bench.remote]], bench.environ, before=bench.empty_registry),
        Contender("skopeo copy", [skopeo], before=bench.empty_registry),
        Contender("floor: PUT of the same bytes", [], measure=lambda: _raw(bench)),
    ]


def relayers(bench: Bench) -> list[Contender]:
    """The base with other layers: of what its build left in the store, and of its layers alone."""
    _foreign(bench)
    foreign = bench.environ | {"MKROOT_STORE": str(bench.work / "foreign")}

    def forget() -> None:
        for store in ({}, foreign):
            environ = {**os.environ, **bench.environ, **store}
            subprocess.run([MKROOT, "rmi", "-f", "bench:cut"], check=False, capture_output=True, env=environ)

    cut = [MKROOT, "relayer", BASE, "bench:cut"]
    zstd = [*cut, "--compression", "zstd"]
    copy = bench.work / "copy"
    skopeo = ["skopeo", "copy", "-q", "--dest-compress-format", "zstd", f"oci:{bench.work}/store/oci:{BASE}"]
    return [
        Contender("mkroot relayer, gzip to zstd", [zstd], bench.environ, before=forget),
        Contender("mkroot relayer, single to source", [[*cut, "--by", "source"]], bench.environ, before=forget),
        Contender("mkroot relayer, gzip to zstd, of a foreign image", [zstd], foreign, before=forget),
        Contender(
            "mkroot relayer, single to source, of a foreign image", [[*cut, "--by", "source"]], foreign, before=forget
        ),
        Contender("skopeo copy, gzip to zstd", [[*skopeo, f"oci:{copy}:base"]], fresh=[copy]),
    ]


def _foreign(bench: Bench) -> None:
    """Make a store that has the base, and knows nothing of its build."""
    archive = bench.work / "base.tar"
    archive.unlink(missing_ok=True)
    shutil.rmtree(bench.work / "foreign", ignore_errors=True)
    bench.mkroot("save", BASE, str(archive), "--format", "oci-archive")
    environ = {**os.environ, **bench.environ, "MKROOT_STORE": str(bench.work / "foreign")}
    subprocess.run([MKROOT, "load", str(archive)], check=True, env=environ, capture_output=True)


def _raw(bench: Bench) -> float:
    """Put each blob of the image by hand; return the seconds."""
    bench.empty_registry()
    found = json.loads(bench.mkroot("inspect", BASE))[0]
    blobs = bench.work / "store/oci/blobs/sha256"
    digests = [layer["Digest"] for layer in found["Layers"]] + [found["Id"]]
    os.sync()
    start = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", bench.port, blocksize=1 << 20)
    for digest in digests:
        connection.request("POST", "/v2/team/raw/blobs/uploads/", headers={"Content-Length": "0"})
        reply = connection.getresponse()
        reply.read()
        place = urllib.parse.urlsplit(reply.headers["Location"])
        path = blobs / digest.removeprefix("sha256:")
        with open(path, "rb") as f:
            headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
            connection.request("PUT", f"{place.path}?{place.query}&digest={digest}", f, headers)
        reply = connection.getresponse()
        reply.read()
        if reply.status != 201:
            raise Failed(f"a raw PUT ended with {reply.status}")
    return time.monotonic() - start


def bump_line(bench: Bench) -> str:
    """Push the base by source packages, bump one package, push again; return what share of the bytes went."""
    layers = {"by": "source"}
    name, old = _older(bench)
    remote = f"127.0.0.1:{bench.port}/team/bumped:1"
    bench.empty_registry()
    for include in ((f"{name}={old}",), (name,)):
        recipe = bench.recipe("bumped", include, layers=layers, tags=["bench:bumped"])
        bench.mkroot("build", "-o", str(bench.work / "out"), "--no-lock", str(recipe))
        bench.mkroot("tag", "bench:bumped", remote)
        pushed = json.loads(bench.mkroot("push", "--json", remote))
    share = 100 * pushed["sent"] / (pushed["sent"] + pushed["there"] + pushed["mounted"])
    goal = "met" if share <= 15 else "missed"
    return (
        f"push again after {name} was bumped, layers by source: {share:.1f} % of the image's bytes (goal: 15 %, {goal})"
    )


def pull_line(bench: Bench) -> str:
    """Bump one package of the base, in one chunked layer; return what one fetches who has the image from before.

    Counted by the tables of contents; that podman fetches no more shows `tests/integration/test_partial_pull.py`.
    """
    name, old = _older(bench)
    tables = []
    for compression, include in (("zstd", name), ("zstd:chunked", f"{name}={old}"), ("zstd:chunked", name)):
        recipe = bench.recipe("pulled", (include,), compression=compression, tags=["bench:pulled"])
        bench.mkroot("build", "-o", str(bench.work / "out"), "--no-lock", str(recipe))
        ((layer,),) = [image["Layers"] for image in json.loads(bench.mkroot("inspect", "bench:pulled"))]
        if compression == "zstd":
            plain = layer["Size"]
        else:
            blob = bench.work / "store/oci/blobs/sha256" / layer["Digest"].removeprefix("sha256:")
            tables.append(of_file(str(blob), layer["Annotations"]))
    before, after = tables
    fetched = after.bytes + after.missing(before.digests())[0]
    return (
        f"pull again after {name} was bumped, one layer in zstd:chunked: {100 * fetched / layer['Size']:.1f} % of its "
        f"bytes; the layer is {100 * (layer['Size'] / plain - 1):.1f} % bigger than in zstd"
    )


def _older(bench: Bench) -> tuple[str, str]:
    """Return a package of the base that an update has brought a newer version of, and its older version."""
    recipe = bench.recipe("older")
    data = json.loads(recipe.read_text())
    plans = []
    for pockets in ([], ["updates", "security"]):
        recipe.write_text(json.dumps({**data, "pockets": pockets}))
        plan = json.loads(bench.mkroot("plan", "--json", "--no-lock", str(recipe)))
        plans.append({p["name"]: p["version"] for p in plan["packages"]})
    before, after = plans
    for name in sorted(n for n in before if n in after and before[n] != after[n]):
        recipe = bench.recipe("older", (f"{name}={before[name]}",))
        with contextlib.suppress(subprocess.CalledProcessError):
            found = json.loads(bench.mkroot("plan", "--json", "--no-lock", str(recipe)))["packages"]
            versions = {p["name"]: p["version"] for p in found}
            if [n for n in versions if versions[n] != after.get(n)] == [name]:
                return name, before[name]
    raise Failed("no package of the base can be older by itself")


def disk_line(bench: Bench) -> str:
    """Return what a second container on an image takes."""
    for name in ("one", "two"):
        with contextlib.suppress(subprocess.CalledProcessError):
            bench.mkroot("rm", "-f", name)
    bench.mkroot("run", "--name", "one", BASE, "/bin/true")
    before = _used(bench.work / "store")
    bench.mkroot("run", "--name", "two", BASE, "/bin/true")
    kib = _used(bench.work / "store") - before
    return f"a second container on the same image: {kib} KiB of disk (goal: 1 MB, {'met' if kib < 1000 else 'missed'})"


def _used(folder: Path) -> int:
    done = subprocess.run(["du", "-sk", str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0])
