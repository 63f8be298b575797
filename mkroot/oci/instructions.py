"""Changes of an image's config in the words of a Dockerfile: what `commit -c` and `import -c` take."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mkroot.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_WORD = re.compile(r"\s*([A-Za-z]+)(?:\s+|\s*=\s*|$)(.*)", re.DOTALL)
Execution = dict[str, Any]
"""An image config's `config`, as JSON has it: what mkroot does not know of it is kept."""


def changed(config: Mapping[str, Any], instructions: Sequence[str]) -> Execution:
    """Return an image's `config` (image-spec, config.md) after the instructions, in order; raises UsageError.

    Known are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR. As in a Dockerfile, `$NAME`
    stands for what ENV says in all but CMD and ENTRYPOINT, which have an exec and a shell form; an ENTRYPOINT without a
    CMD beside it takes the parent's CMD away.
    """
    found = dict(config)
    words = set()
    for text in instructions:
        parts = _WORD.fullmatch(text)
        word, rest = (parts[1].upper(), parts[2].strip()) if parts else ("", "")
        if word not in _KNOWN:
            raise UsageError(
                f"`{text}` is not a change of an image's config", hint=f"known are {', '.join(sorted(_KNOWN))}"
            )
        if not rest:
            raise UsageError(f"`{text}` says nothing after {word}", hint=f"such as `-c '{_KNOWN[word][1]}'`")
        try:
            _KNOWN[word][0](found, rest)
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UsageError(f"`{text}` is not UTF-8 text, which is all that an image's config holds") from None
        except _Wrong as e:
            raise UsageError(f"`{text}`: {e}", hint=f"such as `-c '{_KNOWN[word][1]}'`") from None
        words.add(word)
    if "ENTRYPOINT" in words and "CMD" not in words:
        found.pop("Cmd", None)
    return {k: v for k, v in found.items() if v not in (None, "")}


class _Wrong(Exception):
    """What is wrong with an instruction."""


def _exec(text: str) -> list[str] | None:
    """Return the exec form: a JSON list of strings; None for any other text."""
    try:
        words = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, list) and all(isinstance(w, str) for w in words) else None


def _command(config: Execution, text: str) -> list[str]:
    """Return the exec form where the text has it, else the shell form."""
    words = _exec(text)
    if words is not None:
        return words
    shell = config.get("Shell")  # Docker's own key, which nothing has checked
    if not isinstance(shell, list) or not shell or not all(isinstance(w, str) for w in shell):
        shell = ["/bin/sh", "-c"]
    return [*shell, text]


def _cmd(config: Execution, text: str) -> None:
    config["Cmd"] = _command(config, text)


def _entrypoint(config: Execution, text: str) -> None:
    config["Entrypoint"] = _command(config, text)


def _env(config: Execution, text: str) -> None:
    env: list[str] = list(config.get("Env") or ())
    for name, value in _pairs(text, _variables(config)):
        if not _NAME.fullmatch(name):
            raise _Wrong(f"`{name}` is not the name of a variable")
        line = f"{name}={value}"
        places = [i for i, old in enumerate(env) if old.partition("=")[0] == name]
        if places:
            env[places[0]] = line
        else:
            env.append(line)
    config["Env"] = env


def _label(config: Execution, text: str) -> None:
    pairs = _pairs(text, _variables(config))
    if any(not name for name, _ in pairs):
        raise _Wrong("a label without a name")
    config["Labels"] = {**(config.get("Labels") or {}), **dict(pairs)}


def _expose(config: Execution, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in _words(text, _variables(config)):
        found = _PORT.fullmatch(word)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise _Wrong(f"`{word}` is not a port")
        for port in range(first, last + 1):
            ports[f"{port}/{(found[3] if found and found[3] else 'tcp').lower()}"] = {}
    config["ExposedPorts"] = ports


def _volume(config: Execution, text: str) -> None:
    volumes = dict(config.get("Volumes") or {})
    words = _exec(text)
    for word in _words(text, _variables(config)) if words is None else words:
        if not word.strip():
            raise _Wrong("a volume without a path")
        volumes[word] = {}
    config["Volumes"] = volumes


def _workdir(config: Execution, text: str) -> None:
    path = _one(text, config)
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path))


def _user(config: Execution, text: str) -> None:
    config["User"] = _one(text, config)


def _stop(config: Execution, text: str) -> None:
    config["StopSignal"] = _one(text, config)


_KNOWN: dict[str, tuple[Callable[[Execution, str], None], str]] = {
    "CMD": (_cmd, 'CMD ["vim", "--version"]'),
    "ENTRYPOINT": (_entrypoint, 'ENTRYPOINT ["/usr/bin/vim"]'),
    "ENV": (_env, "ENV LANG=C.UTF-8 EDITOR=vim"),
    "EXPOSE": (_expose, "EXPOSE 80 53/udp"),
    "LABEL": (_label, "LABEL org.opencontainers.image.title=editor"),
    "STOPSIGNAL": (_stop, "STOPSIGNAL SIGINT"),
    "USER": (_user, "USER app:app"),
    "VOLUME": (_volume, 'VOLUME ["/data"]'),
    "WORKDIR": (_workdir, "WORKDIR /srv"),
}


def _one(text: str, config: Execution) -> str:
    words = _words(text, _variables(config))
    if len(words) != 1 or not words[0]:
        raise _Wrong("it takes one word")
    return words[0]


def _variables(config: Execution) -> dict[str, str]:
    pairs = (line.partition("=") for line in config.get("Env") or ())
    return {name: value for name, _, value in pairs}


def _pairs(text: str, env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return `a=b c="d e"` as pairs, and the older form `a b c` as one."""
    words = _words(text, env)
    if not words:
        raise _Wrong("there is no name")
    head = re.match(r"[^\s=\"']+(?=\s)", text)
    if head is not None:
        rest = text[head.end() :].strip()
        return [(head[0], "".join(_expanded(rest, env, split=False)))]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise _Wrong(f"`{word}` has no `=`")
        pairs.append((name, value))
    return pairs


def _words(text: str, env: Mapping[str, str]) -> list[str]:
    return _expanded(text, env, split=True)


def _expanded(text: str, env: Mapping[str, str], *, split: bool) -> list[str]:
    """Return the words of a text, quotes and backslashes taken off, and variables replaced but in single quotes."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    at = 0
    while at < len(text):
        c = text[at]
        at += 1
        if split and not quote and c.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        if quote and c == quote:
            quote = ""
        elif not quote and c in "\"'":
            quote = c
        elif c == "\\" and quote != "'" and at < len(text):
            if quote and text[at] not in '"\\$':
                word.append(c)
            word.append(text[at])
            at += 1
        elif c == "$" and quote != "'" and (name := re.match(r"\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*)", text[at:])):
            word.append(env.get(name[1] or name[2], ""))
            at += name.end()
        else:
            word.append(c)
    if quote:
        raise _Wrong(f"a {quote} that is not closed")
    return [*words, "".join(word)] if word is not None else words
