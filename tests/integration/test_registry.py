"""The registry client against Debian's docker-registry, and skopeo and podman as the other side."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mkroot.artifact.manifest import Facts
from mkroot.oci.build import ImageSettings
from mkroot.oci.outputs import write_build
from mkroot.oci.store import ImageStore
from mkroot.store.store import Store
from tests.integration.building import MKROOT, needs
from tests.integration.registries import PASSWORD, USER, Served, served, signed, token_service
from tests.integration.test_oci_clients import alone, run, shell_root
from tests.unit.test_artifact_root import FACTS

NAME = "shell:own"


class Place:
    """A user's folder: two stores, a home, and the command line with them. `here` has the image `shell:own`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here, self.there = folder / "here", folder / "there"
        self.environ = {"HOME": str(folder / "home"), "DOCKER_CONFIG": str(folder / "home" / ".docker")}
        self.environ |= {"XDG_RUNTIME_DIR": str(folder / "run"), "MKROOT_CONFIG": str(folder / "none.toml")}

    def __call__(
        self, *words: str, store: Path | None = None, check: bool = True, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **self.environ, "MKROOT_STORE": str(store or self.here), **environ}
        done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, env=env, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    def log_in(self, host: str, *words: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **self.environ, "MKROOT_STORE": str(self.here)}
        command = [*PROGRAM, "login", host, "-u", USER, "--password-stdin", *words]
        return subprocess.run(command, input=password, capture_output=True, text=True, env=environ, check=False)


PROGRAM = (str(MKROOT),)


def fill(store: Path, folder: Path, name: str = NAME, architectures: tuple[str, ...] = ("amd64",), **more: Any) -> None:
    """Put an image into a store: this machine's shell. With several architectures, an index of the same tree."""
    from msgspec.structs import replace

    siblings: list[Any] = []
    for architecture in architectures:
        facts: Facts = replace(FACTS, architecture=architecture)
        settings = ImageSettings(cmd=("/bin/sh",), tags=(name,), **more)
        root = shell_root(Store(store))
        images = ImageStore(Store(store))
        write_build(root, facts, settings, folder / architecture, ("oci",), images=images, siblings=siblings)


@pytest.fixture(autouse=True)
def _logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """skopeo looks into a folder of the system's, which may be another user's."""
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    fill(found.here, tmp_path / "out")
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "registry") as found:
        yield found


def digest_in(store: Path, name: str) -> str:
    return ImageStore(Store(store)).find(name).digest


def tagged(place: Place, host: str, name: str = "team/shell:1") -> str:
    reference = f"{host}/{name}"
    place("tag", NAME, reference)
    return reference


# Round trips


@pytest.mark.parametrize("kind", ["open", "login", "tls"])
def test_there_and_back(place: Place, tmp_path: Path, kind: str) -> None:
    with served(tmp_path / "r", login=kind == "login", tls=kind == "tls") as registry:
        reference = tagged(place, registry.host)
        trust = ("--ca", str(registry.ca)) if registry.ca else ()
        if kind == "login":
            refused = place("push", reference, check=False)
            assert refused.returncode == 1 and "the registry wants a login" in refused.stderr
            assert f"mkroot login {registry.host}" in refused.stderr and not registry.blobs()
            assert place.log_in(registry.host).returncode == 0
        digest = digest_in(place.here, NAME)
        assert place("push", *trust, reference).stdout == f"{reference}@{digest}\n"
        assert place("pull", *trust, reference, store=place.there).stdout == f"{reference}@{digest}\n"
        assert place("tags", *trust, reference.rpartition(":")[0]).stdout == "1\n"
        place("inspect", "--verify", reference, store=place.there)
        told = json.loads(place("inspect", reference, store=place.there).stdout)[0]
        assert told["Digest"] == digest and told["Config"]["Cmd"] == ["/bin/sh"]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_every_compression(tmp_path: Path, registry: Served, compression: str) -> None:
    place = Place(tmp_path)
    fill(place.here, tmp_path / "out", f"{registry.host}/shell:{compression}", compression=compression)
    place("push", f"{registry.host}/shell:{compression}")
    place("pull", f"{registry.host}/shell:{compression}", store=place.there)
    place("inspect", "--verify", f"{registry.host}/shell:{compression}", store=place.there)


def test_a_second_push_sends_nothing(place: Place, registry: Served) -> None:
    reference = tagged(place, registry.host)
    first = json.loads(place("push", "--json", reference).stdout)
    assert first["sent"] > 0 and first["there"] == 0
    writes = len(registry.requests('"PUT ')), len(registry.requests('"POST ')), len(registry.requests('"PATCH '))
    second = json.loads(place("push", "--json", reference).stdout)
    assert (second["sent"], second["mounted"], second["there"]) == (0, 0, first["sent"])
    assert writes == (
        len(registry.requests('"PUT ')),
        len(registry.requests('"POST ')),
        len(registry.requests('"PATCH ')),
    )
    assert writes[0] and writes[2] == 0, "one PUT a blob, no chunks"


def test_another_repository_gets_the_blobs_by_mount(place: Place, registry: Served) -> None:
    sent = json.loads(place("push", "--json", tagged(place, registry.host)).stdout)["sent"]
    other = tagged(place, registry.host, "other/shell:1")
    result = json.loads(place("push", "--json", other).stdout)
    assert (result["sent"], result["mounted"]) == (0, sent)
    place("pull", other, store=place.there)


def test_an_index_of_two_architectures(tmp_path: Path, registry: Served) -> None:
    place = Place(tmp_path)
    reference = f"{registry.host}/shell:both"
    fill(place.here, tmp_path / "out", reference, ("amd64", "arm64"))
    digest = digest_in(place.here, reference)
    place("push", reference)
    assert place("pull", "--all-arch", reference, store=place.there).stdout.endswith(f"@{digest}\n")
    place("pull", "--arch", "arm64", reference, store=tmp_path / "third")
    told = json.loads(place("inspect", "--arch", "arm64", reference, store=tmp_path / "third").stdout)
    assert told[0]["Architecture"] == "arm64"
    wrong = place("pull", "--arch", "riscv64", reference, store=tmp_path / "fourth", check=False)
    assert wrong.returncode == 1 and "there is: amd64, arm64" in wrong.stderr
    raw = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"))
    assert [m["platform"]["architecture"] for m in raw["manifests"]] == ["amd64", "arm64"]


def test_artifacts_go_along(place: Place, registry: Served) -> None:
    reference = tagged(place, registry.host)
    digest = digest_in(place.here, reference)
    pushed = json.loads(place("push", "--attach", "--json", reference).stdout)
    assert pushed["digest"] == digest and len(pushed["attached"]) == 1
    assert json.loads(place("push", "--attach", "--json", reference).stdout)["attached"] == pushed["attached"]
    assert json.loads(place("pull", "--json", reference, store=place.there).stdout)["artifacts"] == 1
    told = json.loads(place("inspect", reference, store=place.there).stdout)[0]["Referrers"]
    assert [(r["ArtifactType"], r["Digest"]) for r in told] == [("application/spdx+json", pushed["attached"][0])]
    bill = json.loads(Path(told[0]["Files"]["sbom.spdx.json"]).read_bytes())
    assert "a" in {p["name"] for p in bill["packages"]}


# Other clients


@pytest.mark.parametrize("login", [False, True])
def test_skopeo_reads_what_was_pushed(place: Place, tmp_path: Path, login: bool) -> None:
    needs("skopeo")
    with served(tmp_path / "r", login=login) as registry:
        reference = tagged(place, registry.host)
        creds = ["--src-creds", f"{USER}:{PASSWORD}"] if login else []
        if login:
            place.log_in(registry.host)
        place("push", reference)
        run(
            "skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", *creds,
            f"docker://{reference}", f"dir:{tmp_path}/copy",
        )  # fmt: skip
        manifest = (tmp_path / "copy" / "manifest.json").read_bytes()
        assert "sha256:" + hashlib.sha256(manifest).hexdigest() == digest_in(place.here, NAME)


@pytest.mark.parametrize("form", ["v2s2", "oci"])
def test_what_skopeo_pushed_is_pulled(place: Place, registry: Served, form: str) -> None:
    needs("skopeo")
    reference = f"{registry.host}/from/skopeo:{form}"
    run(
        "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--format", form,
        f"oci:{place.here}/oci:{NAME}", f"docker://{reference}",
    )  # fmt: skip
    place("pull", reference, store=place.there)
    place("inspect", "--verify", reference, store=place.there)
    told = json.loads(place("inspect", reference, store=place.there).stdout)[0]
    docker = told["Layers"][0]["MediaType"].startswith("application/vnd.docker.")
    assert docker == (form == "v2s2") and told["Config"]["Cmd"] == ["/bin/sh"]
    again = f"{registry.host}/back:{form}"
    place("tag", reference, again, store=place.there)
    place("push", again, store=place.there)
    raw = json.loads(run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{again}"))
    assert raw["mediaType"].startswith("application/vnd.docker.") if docker else raw["config"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount namespace of root's")
def test_podman_pulls_and_runs_what_was_pushed(place: Place, tmp_path: Path, registry: Served) -> None:
    needs("podman")
    reference = tagged(place, registry.host)
    place("push", reference)
    graph = Path(tempfile.mkdtemp(prefix="mkroot-"))  # podman's runroot has at most 50 characters
    own = [
        "podman", "--root", str(graph / "graph"), "--runroot", str(graph / "run"), "--storage-driver", "vfs",
        "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir", str(graph / "tmp"),
    ]  # fmt: skip
    try:
        run(*own, "pull", "-q", "--tls-verify=false", reference)
        command = [
            *own, "run", "--rm", "--network", "none", "--cgroups", "disabled", "--log-driver", "none",
            "--ulimit", "nofile=256:256", "--ulimit", "nproc=256:256", reference, "/bin/sh", "-c", "true && echo ran",
        ]  # fmt: skip
        done = subprocess.run(alone(command), capture_output=True, text=True, timeout=120)
        if done.returncode == 126 or "operation not permitted" in done.stderr.lower():
            pytest.skip(f"podman cannot run containers here: {done.stderr.strip()[-200:]}")
        assert done.stdout == "ran\n", done.stderr
    finally:
        subprocess.run([*own, "rmi", "-af"], capture_output=True, check=False)
        shutil.rmtree(graph, ignore_errors=True)


def test_podmans_login_is_found(place: Place, tmp_path: Path) -> None:
    needs("podman")
    with served(tmp_path / "r", login=True) as registry:
        file = tmp_path / "auth.json"
        subprocess.run(
            [
                "podman", "login", "--tls-verify=false", "--authfile", file, "-u", USER, "--password-stdin",
                registry.host,
            ],
            input=PASSWORD, capture_output=True, text=True, check=True,
        )  # fmt: skip
        reference = tagged(place, registry.host)
        assert place("push", reference, check=False).returncode == 1
        place("push", reference, REGISTRY_AUTH_FILE=str(file))


# Logins and trust


def test_login_keeps_only_what_is_right_and_to_oneself(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "home" / ".docker" / "config.json"
    with served(tmp_path / "r", login=True) as registry:
        wrong = place.log_in(registry.host, password="wrong " + PASSWORD)
        assert wrong.returncode == 1 and f"does not accept the login of `{USER}`" in wrong.stderr
        assert not file.exists() and PASSWORD not in wrong.stderr + wrong.stdout
        right = place.log_in(registry.host)
        assert right.returncode == 0 and PASSWORD not in right.stderr + right.stdout
        assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
        run("skopeo", "list-tags", "--tls-verify=false", "--authfile", file, f"docker://{push(place, registry)}")
        place("logout", registry.host)
        assert json.loads(file.read_bytes()) == {"auths": {}}
        assert place("tags", f"{registry.host}/team/shell", check=False).returncode == 1


def push(place: Place, registry: Served) -> str:
    """Push, and return the repository."""
    reference = tagged(place, registry.host)
    place("push", reference)
    return reference.rpartition(":")[0]


def test_tokens(place: Place, tmp_path: Path) -> None:
    """Anybody may pull, who logged in may push; one token does for a push, and lets it mount blobs."""
    folder = tmp_path / "r"
    with token_service(folder) as (realm, scopes), served(folder, token=realm) as registry:
        reference = tagged(place, registry.host)
        refused = place("push", reference, check=False)
        assert refused.returncode == 1 and "the registry wants a login" in refused.stderr
        wrong = place.log_in(registry.host, password="wrong")
        assert wrong.returncode == 1 and f"does not accept the login of `{USER}`" in wrong.stderr
        assert place.log_in(registry.host).returncode == 0
        scopes.clear()
        place("push", reference)
        assert scopes == ["repository:team/shell:pull,push"]
        scopes.clear()
        other = tagged(place, registry.host, "other/shell:1")
        assert json.loads(place("push", "--json", other).stdout)["mounted"] > 0
        assert scopes == ["repository:other/shell:pull,push", "repository:team/shell:pull"]
        place("logout", registry.host)
        place("pull", reference, store=place.there)


def test_certificates(place: Place, tmp_path: Path) -> None:
    with served(tmp_path / "r", tls=True) as registry:
        reference = tagged(place, registry.host)
        wrong = place("push", reference, check=False)
        assert wrong.returncode == 1, "an unknown authority"
        assert f"the certificate of `{registry.host}` is not trusted" in wrong.stderr and "--ca FILE" in wrong.stderr
        assert not registry.blobs()
        place("push", reference, SSL_CERT_FILE=str(registry.ca))
        place("pull", "--insecure", reference, store=place.there)
        folder = tmp_path / "home" / ".config" / "mkroot" / "certs.d" / registry.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(registry.ca.read_bytes() if registry.ca else b"")
        place("pull", reference, store=place.there)
        (folder / "ca.crt").write_text("nothing")
        broken = place("pull", reference, store=place.there, check=False)
        assert broken.returncode == 1 and "no certificate in PEM form" in broken.stderr


def test_a_clients_certificate(place: Place, tmp_path: Path) -> None:
    """Of Docker's convention: NAME.cert with NAME.key beside the authority."""
    folder = tmp_path / "home" / ".config" / "mkroot" / "certs.d"
    with served(tmp_path / "r", tls=True, clients=True) as registry:
        assert registry.ca is not None
        reference = tagged(place, registry.host)
        assert place("push", "--ca", str(registry.ca), reference, check=False).returncode == 1
        certificate, key = signed(tmp_path / "r", "client")
        own = folder / registry.host
        own.mkdir(parents=True)
        shutil.copy(registry.ca, own / "ca.crt")
        shutil.copy(certificate, own / "me.cert")
        missing = place("push", reference, check=False)
        assert missing.returncode == 1 and "`me.key`" in missing.stderr
        shutil.copy(key, own / "me.key")
        place("push", reference)


def test_a_registry_without_tls_where_tls_is_expected(place: Place, registry: Served, tmp_path: Path) -> None:
    ca = tmp_path / "some.crt"
    from tests.integration.registries import authority

    ca.write_bytes(authority(tmp_path / "ca")[0].read_bytes())
    reference = tagged(place, registry.host)
    wrong = place("push", "--ca", str(ca), reference, check=False)
    assert wrong.returncode == 1 and "no secure connection" in wrong.stderr and "`--insecure`" in wrong.stderr
    missing = place("push", "--ca", str(tmp_path / "none"), reference, check=False)
    assert missing.returncode == 1 and "`--ca` names a file of authorities that cannot be used" in missing.stderr
    place("push", "--insecure", reference)


# Trouble


class Chopper:
    """Stands between client and registry, and breaks the first connections after so many bytes of one direction."""

    def __init__(self, host: str, after: int, times: int, up: bool) -> None:
        self._to = host.rpartition(":")[0], int(host.rpartition(":")[2])
        self._after, self._left, self._up = after, times, up
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.broken = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(self._to)
            for source, target, counted in ((near, far, self._up), (far, near, not self._up)):
                threading.Thread(target=self._pump, args=(source, target, counted), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        done = 0
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                done += len(data)
                with self._lock:
                    breaks = counted and self._left > 0 and done > self._after
                    if breaks:
                        self._left -= 1
                        self.broken += 1
                if breaks:
                    break
            for end in (source, target) if done > self._after and counted else (target,):
                end.shutdown(socket.SHUT_RDWR if end is source else socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._server.close()


@pytest.mark.parametrize("up", [True, False])
def test_connections_that_break_do_not_matter(tmp_path: Path, registry: Served, up: bool) -> None:
    place = Place(tmp_path)
    between = Chopper(registry.host, after=700_000, times=2, up=up)
    try:
        reference = f"{between.host}/shell:1"
        fill(place.here, tmp_path / "out", reference, compression="none")
        pushed = place("push", reference)
        pulled = place("pull", reference, store=place.there)
        assert between.broken == 2
        told = (pushed if up else pulled).stderr
        assert "trying again" in told
        place("inspect", "--verify", reference, store=place.there)
    finally:
        between.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_told_and_nothing_is_kept(tmp_path: Path, registry: Served) -> None:
    place = Place(tmp_path)
    reference = f"{registry.host}/shell:1"
    fill(place.here, tmp_path / "out", reference, compression="none")
    place("push", reference)
    small = tmp_path / "small"
    small.mkdir()
    script = (
        'mount -t tmpfs -o size=1m none "$0" && MKROOT_STORE="$0/s" "$1" pull "$2"; status=$?; '
        'find "$0/s/tmp" "$0/s/oci/blobs" -type f >&2; exit $status'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(small), *PROGRAM, reference], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "the disk is full, nothing of the image was kept" in done.stderr and "blobs/sha256" not in done.stderr
    assert "mkroot cache prune" in done.stderr


def test_what_is_not_there(place: Place, registry: Served) -> None:
    reference = tagged(place, registry.host)
    place("push", reference)
    for wrong, message, hint in (
        (reference + "1", "has no tag `11`", "its tags: `1`"),
        (reference.replace("shell", "shel"), "has no repository `team/shel`", "spelt right"),
        ("team/shell:1", "names no registry", "registry.example/team/shell"),
        ("127.0.0.1:1/x:1", "does not answer", "is it running"),
        ("nowhere.invalid/x:1", "the host `nowhere.invalid` is not known", "spelt right"),
    ):
        done = place("pull", wrong, store=place.there, check=False)
        assert done.returncode == 1 and message in done.stderr and hint in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    missing = place("push", f"{registry.host}/team/other:1", check=False)
    assert missing.returncode == 1 and "there is no image" in missing.stderr
