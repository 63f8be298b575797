"""The story of the image model, from the first base image to a colleague's pull: as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.integration.building import MKROOT, ROOT, as_user, needs, ordinary_user
from tests.integration.registries import PASSWORD, USER, Served, served

pytestmark = pytest.mark.archive
PROMPT = r"[#$] $"


class Person:
    """Somebody with a store and a home of their own."""

    def __init__(self, name: str, home: Path) -> None:
        self.home = home
        environ = {
            "HOME": str(home),
            "MKROOT_STORE": str(home / "store"),
            "DOCKER_CONFIG": str(home / "docker"),
            "TERM": "xterm",
        }
        if name == "root":
            self.command = [str(MKROOT)]
            self.environ = {**os.environ, **environ}
        else:
            self.command = as_user(name, environ)
            self.environ = dict(os.environ)

    def __call__(self, *words: str | Path, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environ,
        )
        if "does not answer" in done.stderr and "127.0.0.1" not in done.stderr:
            pytest.skip(f"the archive does not answer: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def spawn(self, *words: str) -> pexpect.spawn:
        """Start it on a terminal."""
        all_words = [*self.command, *words]
        return pexpect.spawn(
            all_words[0], all_words[1:], cwd=str(self.home), env=self.environ, timeout=300, encoding="utf-8"
        )


@pytest.fixture(params=["root", "an ordinary user"])
def person(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A name and a folder of theirs, for the builder and for a colleague."""
    name = "root"
    if request.param != "root":
        name = ordinary_user()
    elif os.geteuid():
        pytest.skip("this test is not run as root")
    folder = Path(f"/tmp/mkroot-story.{os.getpid()}.{name}")
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("me", "colleague"):
        (folder / part).mkdir(parents=True)
        shutil.chown(folder / part, name, name)
    yield name, folder
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    """A registry on loopback that wants a login."""
    with served(tmp_path / "registry", login=True) as found:
        yield found


def test_from_the_first_base_image_to_a_colleagues_pull(person: tuple[str, Path], registry: Served) -> None:
    needs("docker-registry")
    name, folder = person
    me, host = Person(name, folder / "me"), registry.host

    # The base image, with no parent, and its tag.
    me("build", ROOT / "recipes/ubuntu-base.yaml", "-o", "out", "--no-lock")
    assert "ubuntu:noble" in me("images").stdout
    base = json.loads(me("images", "--json").stdout)[0]

    # Inside, vim is not found; it is installed, and one leaves.
    shell = me.spawn("run", "-it", "ubuntu:noble", "/bin/bash")
    shell.expect(PROMPT)
    shell.sendline("vim --version")
    shell.expect("vim: command not found")
    shell.expect(PROMPT)
    shell.sendline("apt-get update && apt-get install -y vim && echo all-$((6 * 7))-well")
    shell.expect("all-42-well", timeout=300)
    shell.expect(PROMPT)
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 0

    # The container is there, and what it changed becomes an image.
    (container,) = json.loads(me("ps", "-a", "--json").stdout)
    assert container["image"] == "ubuntu:noble" and container["status"].startswith("exited")
    assert container["id"][:12] in me("ps", "-a").stdout
    identity = container["id"][:8]
    assert "A /usr/bin/vim.basic" in me("diff", identity).stdout
    refused = me("commit", identity, "My-Ubuntu:1.0", check=False)
    assert refused.returncode == 1 and "my-ubuntu" in refused.stderr
    image = me("commit", "-m", "add vim", "-a", "me", identity, "my-ubuntu:1.0").stdout.strip()

    # Bigger than its base, which is on disk once.
    rows = {row["reference"]: row for row in json.loads(me("images", "--json").stdout)}
    mine, old = rows["my-ubuntu:1.0"], rows["ubuntu:noble"]
    assert mine["size"] > old["size"] == base["size"]
    assert mine["shared"] == old["size"] and old["unique"] == 0 and mine["layers"] == old["layers"] + 1
    history = me("history", "my-ubuntu:1.0").stdout
    assert "add vim" in history
    assert "my-ubuntu:1.0" in me("images", "--tree").stdout

    # By id as well as by name.
    for reference in (image, image.removeprefix("sha256:")[:12], "my-ubuntu:1.0"):
        done = me("run", "--rm", reference, "vim", "--version")
        assert "VIM - Vi IMproved" in done.stdout
    assert me("run", "--rm", "ubuntu:noble", "vim", "--version", check=False).returncode == 127

    # To the registry: only what it lacks.
    remote = f"{host}/team/my-ubuntu:1.0"
    denied = me("push", "my-ubuntu:1.0", check=False)
    assert denied.returncode == 1 and "mkroot tag" in denied.stderr
    wrong = me("login", host, "-u", USER, "--password-stdin", stdin="wrong", check=False)
    assert wrong.returncode == 1 and "wrong" not in wrong.stdout + wrong.stderr.replace("wrong user", "")
    me("login", host, "-u", USER, "--password-stdin", stdin=PASSWORD)
    assert (folder / "me/docker/config.json").stat().st_mode & 0o777 == 0o600
    me("tag", "ubuntu:noble", f"{host}/team/ubuntu:noble")
    me("push", f"{host}/team/ubuntu:noble")
    me("tag", "my-ubuntu:1.0", remote)
    pushed = json.loads(me("push", "--json", remote).stdout)
    assert pushed["sent"] < mine["unique"] + 10_000, "the base's layer is there already"
    assert pushed["mounted"] + pushed["there"] >= old["size"]
    again = json.loads(me("push", "--json", remote).stdout)
    assert again["sent"] == again["mounted"] == 0

    # A colleague, with a store of their own, and then the same person with an empty one.
    colleague = Person(name, folder / "colleague")
    refused = colleague("pull", remote, check=False)
    assert refused.returncode == 1 and "mkroot login" in refused.stderr
    colleague("login", host, "-u", USER, "--password-stdin", stdin=PASSWORD)
    colleague("pull", remote)
    assert "VIM - Vi IMproved" in colleague("run", "--rm", remote, "vim", "--version").stdout
    me("rmi", "--all")
    assert json.loads(me("images", "--json").stdout) == []
    me("pull", remote)
    assert json.loads(me("inspect", remote).stdout)[0]["Digest"] == mine["digest"]
    assert "VIM - Vi IMproved" in me("run", "--rm", remote, "vim", "--version").stdout

    # What mkroot pushed, others read; what they push, mkroot pulls and runs.
    needs("skopeo")
    skopeo = ["skopeo", "--command-timeout", "120s"]
    creds = f"{USER}:{PASSWORD}"
    copied = folder / "copy"
    words = ["copy", "-q", "--src-tls-verify=false", "--src-creds", creds, f"docker://{remote}", f"oci:{copied}:x"]
    subprocess.run([*skopeo, *words], check=True)
    words = ["copy", "-q", "--dest-tls-verify=false", "--dest-creds", creds, "--format", "v2s2"]
    subprocess.run([*skopeo, *words, f"oci:{copied}:x", f"docker://{host}/theirs/vim:2"], check=True)
    colleague("pull", f"{host}/theirs/vim:2")
    assert "VIM - Vi IMproved" in colleague("run", "--rm", f"{host}/theirs/vim:2", "vim", "--version").stdout
