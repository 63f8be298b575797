"""The corpora: a few small inputs for every target, from which the fuzzers start.

`python -m tests.fuzz.corpus` writes them anew. A file `good-*` is taken by its parser, `bad-*` is refused; `found-*`
once broke one, was kept, and is not written here.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import lzma
import struct
import tarfile
import tempfile
from pathlib import Path

import msgspec

from mkroot.store.frame import write_frame
from mkroot.store.layer import Layer
from mkroot.tar.entry import FILE, SYMLINK, Entry
from tests.fuzz.archives import TEXT
from tests.fuzz.images import LAYER
from tests.fuzz.seeds import CONTROL, Corpus, debs, short_tar, streams, tars
from tests.testarchive import DATE, Key, Raw, Signing, armor, clearsign, detached, member
from tests.unit import efi, kernels

PLACE = Path(__file__).parent / "corpus"


def _texts(good: tuple[str, ...], bad: tuple[str, ...]) -> Corpus:
    named = [*((f"good-{n:02}", text) for n, text in enumerate(good)), *((f"bad-{n:02}", t) for n, t in enumerate(bad))]
    return {name: text.encode("utf-8", "surrogateescape") for name, text in named}


def _index() -> Corpus:
    return _texts(
        (
            "Package: a\nVersion: 1\nDepends: b (>= 1) | c, d:any\nProvides: e (= 1), f\n\n"
            "Package: b\nEssential: yes\nVersion: 2\n",
            "\n\nPackage: a\n\n\n\nPackage: b\nPriority: required\n\n",
            "Package: a\nPackage: b\nDepends: x\nDepends: y\n",
            "Package: a\nDescription: x\n y\nRecommends:\n a,\n b\n",
            "",
            "\n",
            "Package: a b\nPriority:  important\nProtected: yes\n",
            "Package:\n\nPackage: \t\n",
            "Package: a,b\n\nPackage: c|d\nProvides: ,,\n",
        ),
        ("Version: 1\n", "Package: a\n\nVersion: 1\n\nPackage: b\n", " Package: a\n"),
    )


def _images() -> dict[str, Corpus]:
    digest = "sha256:" + "0" * 64
    descriptor = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 3}
    diff_id = "sha256:" + hashlib.sha256(LAYER).hexdigest()
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    full = config | {
        "created": "2025-06-15T15:06:40Z",
        "config": {"Env": ["A=1"], "Cmd": ["sh"]},
        "history": [{"created_by": "x"}],
    }
    row = {"Config": "config.json", "Layers": ["layer.tar"], "RepoTags": ["a:b"]}

    def text(value: object) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    def both(rows: object, value: object = config) -> bytes:
        return text(rows) + b"\0" + text(value)

    auth = base64.b64encode(b"me:secret").decode()
    return {
        "documents": {
            "good-manifest": text({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]}),
            "good-index": text(
                {"schemaVersion": 2, "manifests": [descriptor | {"platform": {"architecture": "arm64", "os": "linux"}}]}
            ),
            "good-config": text(full),
            "good-date": text(full | {"created": "9999-12-31T23:59:59-23:59"}),
            "bad-both": text({"layers": [], "manifests": []}),
            "bad-size": text({"schemaVersion": 2, "config": descriptor | {"size": "3"}, "layers": []}),
            "bad-kind": b"[]",
            "bad-depth": b'{"config":{"Volumes":{"a":' + b"[" * 1990,
            "bad-utf8": b'{"schemaVersion":2,"mediaType":"\xff"}',
            "bad-empty": b"",
        },
        "docker-archive": {
            "good-one": both([row]),
            "good-none": both([]),
            "good-no-tags": both([row | {"RepoTags": None}]),
            "bad-diff-id": both([row], config | {"rootfs": {"type": "layers", "diff_ids": [digest]}}),
            "bad-layers": both([row | {"Layers": []}]),
            "bad-layer-missing": both([row | {"Layers": ["../layer.tar"]}]),
            "bad-tag": both([row | {"RepoTags": ["A:b"]}]),
            "bad-config-name": both([row | {"Config": "0" * 64 + ".json"}]),
            "bad-depth": b"[" * 2000,
        },
        "members": {
            "good-files": short_tar(Raw(member("a"), b"x"), Raw(member("b"), b"")),
            "good-link": short_tar(Raw(member("d/a", tarfile.SYMTYPE, linkname="../b")), Raw(member("b"), b"x")),
            "bad-link": short_tar(Raw(member("a", tarfile.SYMTYPE, linkname="../../etc/passwd"))),
            "good-loop": short_tar(
                Raw(member("a", tarfile.SYMTYPE, linkname="a")), Raw(member("b", tarfile.LNKTYPE, linkname="a"))
            ),
            "bad-device": short_tar(Raw(member("a", tarfile.CHRTYPE))),
            "bad-empty": b"",
        },
        "logins": {
            "good-auth": text({"auths": {"registry.example": {"auth": auth}}}),
            "good-token": text({"auths": {"https://registry.example/v1/": {"identitytoken": "secret"}}}),
            "good-path": text({"auths": {"registry.example/team": {"username": "me", "password": "secret"}}}),
            "good-nothing": b"{}",
            "bad-auth": text({"auths": {"registry.example": {"auth": "c2VjcmV0"}}}),
            "bad-kind": text({"auths": ["secret"]}),
            "bad-list": b"[]",
            "bad-helper": text({"credsStore": "../../bin/sh"}),
            "bad-helper-missing": text({"credHelpers": {"registry.example": "nothing"}}),
            "bad-depth": b"[" * 2000,
        },
    }


def _recipes() -> Corpus:
    head = "version: 1\nname: r\ndistro: debian\nsuite: trixie\narch: [amd64]\n"
    return _texts(
        (
            head,
            head
            + "packages: {variant: none, include: [aa, 'bb=1.*', cc/trixie-updates]}\n"
            + "configure: none\noutputs: [tar, oci]\n",
            head
            + "vars: {x: one}\nconfig: {hostname: '${x}', users: [{name: app, uid: 1000}], "
            + "files: [{path: /a, content: x, mode: '0644'}]}\n",
            '{"version": 1, "name": "r", "distro": "debian", "suite": "trixie", "arch": ["amd64"]}',
            head.replace("\n", "\r\n"),
            "\ufeff" + head,
            head + "image: &i {cmd: [sh], env: {A: b}, labels: {a: b}}\n",
        ),
        (
            "",
            "a: [",
            "- a\n",
            head + "naem: x\n",
            head + "name: s\n",
            head + "extends: [/etc/passwd]\n",
            head + "packages:\n\tinclude: []\n",
            head + "packages: {include: 5, variant: maximal}\n",
            head + "---\n" + head,
            head + "config: !!python/object:os.system {}\n",
            "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c, *a]\n",
            "a: &a [*a]\n",
            "[" * 500,
            "\udcff\udcfe" + "v\0e\0r\0",
            head + "config: {hostname: '${y}'}\n",
            "? [a]\n: b\n",
        ),
    )


def _lock() -> Corpus:
    package = {
        "name": "p",
        "version": "1.0-1",
        "architecture": "all",
        "source": "p",
        "source_version": "1.0-1",
        "sha256": "0" * 64,
        "size": 1,
        "installed_size": 1,
        "path": "pool/p.deb",
        "origin": "debian",
        "suite": "trixie",
        "component": "main",
        "stage": "include",
        "why": "requested",
    }
    suite = {"suite": "trixie", "inrelease": "0" * 64, "date": DATE, "signer": "A" * 40}

    def lock(*packages: object, **more: object) -> bytes:
        whole = {
            "version": 1,
            "recipe": "0" * 64,
            "sources": [{"id": "debian", "suites": [suite]}],
            "architectures": {"amd64": {"packages": packages}},
        }
        return json.dumps(whole | more, separators=(",", ":")).encode()

    return {
        "good-one": lock(package),
        "good-none": lock(),
        "bad-twice": lock(package, package),
        "bad-digest": lock(package | {"sha256": "zz"}),
        "bad-path": lock(package | {"path": "../../etc/passwd"}),
        "bad-version": lock(version=2),
        "bad-key": lock(more=1),
        "bad-size": lock(package | {"size": -1}),
        "bad-cut": lock(package)[:-9],
        "bad-depth": b'{"version":1,"x":' + b"[" * 2000,
        "bad-empty": b"",
        "bad-utf8": lock(package).replace(b"requested", b"\xff\xff"),
    }


def _store() -> dict[str, Corpus]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "f")
        write_frame(place, "zstd", iter((b"one", b"two" * 20)))
        frame = place.read_bytes()
    layer = Layer(key="k", name="p", entries=(Entry("a", FILE, 0o644, size=3), Entry("b", SYMLINK, 0o777, link="a")))
    packed = msgspec.msgpack.encode(layer)
    return {
        "frame": {
            "good-untouched": b"",
            "bad-first": b"\0\0\1",
            "bad-table": struct.pack(">HB", 200, 7),
            "bad-end": struct.pack(">HB", 65535, 7),
            "bad-cut": b"\5",
        },
        "frame-table": {
            "good-two": frame,
            "bad-cut": frame[:-1],
            "bad-mark": frame[:-8] + b"mkframe9",
            "bad-length": frame[:-16] + b"\xff" * 8 + frame[-8:],
            "bad-table": frame[:-60] + b"x" + frame[-59:],
            "bad-empty": b"",
        },
        "layer-record": {"good-layer": packed, "bad-cut": packed[:-3], "bad-kind": b"\x90", "bad-empty": b""},
    }


def _signatures() -> dict[str, Corpus]:
    key = Key()
    signing = Signing(key=key, created=DATE)
    inline = clearsign(TEXT, [signing]).encode()
    binary = detached(TEXT.encode(), [signing])
    other = detached(b"other\n", [signing])
    armored = armor("SIGNATURE", binary).encode()
    stranger = detached(TEXT.encode(), [Signing(key=Key(number=1), created=DATE)])
    public = key.public()
    return {
        "release": {
            "good-release": TEXT.replace("- dash\n", "").encode(),
            "good-valid-until": TEXT.replace("- dash\n", "Valid-Until: Sun, 22 Jun 2025 15:06:40 UTC\n").encode(),
            "bad-dash": TEXT.encode(),
            "bad-no-date": b"SHA256:\n",
            "bad-path": TEXT.replace("- dash\n", "").replace("main/", "../main/").encode(),
            "bad-date": TEXT.replace("- dash\n", "").replace("15 Jun", "99 Jun").encode(),
            "bad-twice": TEXT.replace("- dash\n", "Suite: x\n").encode(),
            "bad-empty": b"",
        },
        "cleartext": {
            "good-signed": inline,
            "bad-before": b"x\n" + inline,
            "bad-after": inline + b"x\n",
            "bad-twice": inline + inline,
            "bad-cut": inline[: len(inline) // 2],
            "bad-header": inline.replace(b"Hash: ", b"Hush: "),
            "bad-dash": inline.replace(b"- - dash", b"-dash"),
            "bad-control": inline.replace(b"Debian", b"Deb\0an"),
            "bad-empty": b"",
        },
        "inrelease": {
            "good-signed": inline,
            "bad-text": inline.replace(b"stable", b"stabel"),
            "bad-cut": inline[:-60],
            "bad-unsigned": TEXT.encode(),
        },
        "signature": {
            "good-binary": binary,
            "good-armored": armored,
            "good-second": stranger + binary,
            "bad-other-text": other,
            "bad-stranger": stranger,
            "bad-key-packet": public,
            "bad-cut": binary[:-3],
            "bad-many": binary[:1] * 33,
            "bad-empty": b"",
        },
        "keyring": {
            "good-binary": public,
            "good-armored": key.public_armored().encode(),
            "good-commented": b"comment\n" + key.public_armored().encode(),
            "bad-signature": binary,
            "bad-cut": public[:100],
            "bad-keybox": b"\0\0\0\0\1\1\0\0KBXf",
            "bad-empty": b"",
        },
    }


def _programs() -> dict[str, Corpus]:
    program = efi.program()
    so = _library()
    module = kernels.module("depends=b,c", "softdep=pre: d")
    name = _der(0x30, _der(0x31, _der(0x30, bytes.fromhex("0603550403") + _der(0x0C, b"Test  root"))))
    der = _der(0x30, _der(0x30, b"\2\1\1" + _der(0x30, b"") * 3 + name))
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"
    said = {
        "commands": [],
        "state": "running",
        "ready": 1.5,
        "uptime": 2,
        "memory": "",
        "boot": "",
        "failed": "",
        "mounts": "",
        "analyze": "",
    }
    return {
        "pe": {
            "good-program": program[:1024] if len(program) > 2048 else program,
            "bad-mz": b"ZM" + program[2:64],
            "bad-cut": program[:80],
            "bad-start": b"MZ" + bytes(58) + b"\xff\xff\xff\xff",
            "bad-empty": b"",
        },
        "elf": {"good-library": so, "bad-cut": so[:60], "bad-kind": so[:16] + b"\2" + so[17:], "bad-empty": b""},
        "kernel-module": {
            "good-plain": b"\0" + module,
            "good-gz": b"\3" + gzip.compress(module, mtime=0),
            "good-xz": b"\1" + lzma.compress(module),
            "bad-cut": b"\0" + module[:50],
            "bad-gz": b"\3" + module,
            "bad-sections": b"\0" + module[:60] + b"\0\0" + module[62:],
            "bad-empty": b"",
        },
        "certificate": {"good-der": der, "bad-pem": pem, "bad-cut": der[:20], "bad-empty": b""},
        "verdict": {
            "good-verdict": json.dumps(said).encode(),
            "bad-key": json.dumps(said | {"memory": 5}).encode(),
            "bad-infinity": b'{"commands":[],"memory":"","boot":"","ready":1' + b"0" * 400 + b"}",
            "bad-depth": b"[" * 2000,
            "bad-empty": b"",
        },
    }


def _der(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def _library() -> bytes:
    """Return a shared object of 64 bits with a SONAME (System V gABI, chapters 4 and 5)."""
    strings = b"\0liba.so.1\0"
    table = 64 + 2 * 56
    dynamic = struct.pack("<qQqQqQ", 5, table, 14, 1, 0, 0)
    size = table + len(strings) + len(dynamic)
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    said = struct.pack("<IIQQQQQQ", 2, 6, table + len(strings), table + len(strings), 0, len(dynamic), len(dynamic), 8)
    return head + load + said + strings + dynamic


def corpora() -> dict[str, Corpus]:
    """Return every target's corpus: contents by name."""
    packages = debs()
    return {
        "ar": packages,
        "deb": packages,
        "tar": tars(),
        "stream": streams(),
        "deb822": _texts(
            (
                CONTROL,
                "A: 1\n b\n c\n\nB:2\n",
                "# c\nA: 1\n# d\n b\n",
                "A:\n 1\n",
                "A: 1\r\nB: 2\r\n",
                "A:1\n \nB:2",
                "",
                "\n\n\n",
                "!: x\n",
            ),
            ("A\n", " x\n", "A: 1\na: 2\n", "A B: 1\n", ": 1\n", "-a: 1\n", "A: 1\n\n x\n", "\udcff: 1\n"),
        ),
        "version": _texts(
            (
                "1.0-1 1.0-1+b1 1:0.9",
                "0~ 0 0a",
                "1.0~rc1-1 1.0-1 1.0-1ubuntu1",
                "2147483647:1 1-0 1",
                "1.01 1.1 1.a",
                "1:2-3-4 1 9",
            ),
            ("", "a b c", "1: 1- -1", "2147483648:1 1 1", "1_0 1 1", "\u0661 1 1", f"{'9' * 60} {'9' * 59}8 x"),
        ),
        "relation": _texts(
            (
                "a",
                "a (>= 1.0-1) | b, c:any (<< 2~)",
                "a [amd64 !i386] <!nocheck> <x y>",
                "a (< 1), b (> 2)",
                "",
                " , ,a",
                "a\n , b(=1)",
                "a:native | b+c",
            ),
            ("a b", "a (>= )", "a (1.0)", "a (>> 1", "(a)", "a |", "-a", "a (= 1) (= 2)", "a" + " " * 200 + "!", "é"),
        ),
        "package": _texts(
            (
                CONTROL,
                CONTROL + "Depends: a, b (>= 1)\nSource: s (2)\nPriority: required\nInstalled-Size: 12\nSize: \u0661\n",
                CONTROL + "Depends: a b\n",
            ),
            ("Package: a\n", "", "Version: 1\nArchitecture: all\n"),
        ),
        "index": _index(),
        "status": _texts(
            (
                "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n"
                "Package: \udcff\nStatus: x\n",
                "",
                "\n\n\nStatus: x\n",
            ),
            (),
        ),
        "reference": _texts(
            (
                "a",
                "a:b",
                "localhost/a",
                "registry.example:5000/team/app:1.0",
                "[::1]:5000/a",
                "127.0.0.1:5000/a@sha256:" + "0" * 64,
                "a/b__c/d-e.f",
            ),
            (
                "",
                "A",
                "a:",
                ":a",
                "a@sha256:0",
                "a//b",
                "registry.example:99999/a",
                "../a",
                "a..b",
                "a b",
                "a" * 256,
                "registry.example/",
                "é",
            ),
        ),
        "challenge": _texts(
            (
                'Bearer realm="https://registry.example/token",service="registry.example",scope="repository:a:pull"',
                "Basic realm=x",
                "",
                "Negotiate\nBasic x",
                'bearer realm="http://127.0.0.1:5000/\\"token"',
                "Bearer " + "a" * 300,
                'Bearer a="' + "\\" * 200,
            ),
            (
                'Bearer realm="ftp://registry.example"',
                'Bearer realm="http://[x"',
                'Bearer realm="http://registry.example:99999/"',
            ),
        ),
        "instructions": _texts(
            (
                'CMD ["a", "b"]\nENTRYPOINT x y',
                "ENV A=b C='d e' F=\"$A\"",
                "ENV A b c",
                "EXPOSE 80 53/udp 1-3",
                'VOLUME ["/a"]\nVOLUME /b /c',
                "WORKDIR ../x\nUSER a:b",
                "LABEL a=b\nSTOPSIGNAL SIGINT",
                "CMD [oops",
                "VOLUME [oops",
                "CMD " + "[" * 1990,
            ),
            (
                "",
                "RUN x",
                "CMD",
                "ENV",
                "ENV =x",
                "ENV A='",
                "EXPOSE 99999",
                "EXPOSE 2-1",
                "USER a b",
                "LABEL =x",
                "WORKDIR",
                'VOLUME [""]',
                "ENV 1A=b",
            ),
        ),
        "wishes": _texts(
            ("./a:/b:ro", "/a:/b", "512M", "1.5g", "host", "A=b", "A", "15", "RTMIN+3", "~root:/x"),
            ("", "=x", " =", "= "),
        ),
        "apt-sources": _texts(
            (
                "deb http://mirror.example/debian trixie main # x\n",
                "deb [signed-by=/a arch=amd64,arm64] http://mirror.example/ubuntu noble main universe\n",
                "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\n"
                "Components: main\nSigned-By:\n -----BEGIN\n .\n",
                "deb\n[",
                "Enabled: no\nTypes: deb\n",
            ),
            (),
        ),
        "recipe": _recipes(),
        "lock": _lock(),
        **_images(),
        **_signatures(),
        **_store(),
        **_programs(),
    }


def write(place: Path = PLACE) -> None:
    """Write all corpora below `place`; files that were found by fuzzing stay."""
    for name, corpus in corpora().items():
        folder = place / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if not old.name.startswith("found-") and old.name not in corpus:
                old.unlink()
        for file, data in corpus.items():
            (folder / file).write_bytes(data)


if __name__ == "__main__":
    write()
