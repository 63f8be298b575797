"""The schema and the reference are what the model says, and the commands print them."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mkroot.cli import check
from mkroot.cli import schema as schema_command
from mkroot.recipe.convert import all_fields, schema
from mkroot.recipe.reference import reference, schema_text
from mkroot.recipe.schema import described, json_schema

ROOT = Path(__file__).parent.parent.parent
HEAD = "version: 1\nname: x\ndistro: debian\nsuite: trixie\n"
KINDS: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def valid(value: Any, rule: dict[str, Any]) -> bool:
    """Tell whether `value` fits `rule`: the part of JSON Schema that ours uses."""
    if "anyOf" in rule and not any(valid(value, other) for other in rule["anyOf"]):
        return False
    if "not" in rule and valid(value, rule["not"]):
        return False
    if "if" in rule and valid(value, rule["if"]) and not valid(value, rule["then"]):
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if "type" in rule and (
        not isinstance(value, KINDS[rule["type"]]) or (rule["type"] == "integer" and isinstance(value, bool))
    ):
        return False
    if isinstance(value, str):
        return "pattern" not in rule or re.search(rule["pattern"], value) is not None
    if isinstance(value, int):
        return rule.get("minimum", value) <= value <= rule.get("maximum", value)
    if isinstance(value, list):
        return len(value) >= rule.get("minItems", 0) and all(valid(item, rule.get("items", {})) for item in value)
    if not isinstance(value, dict):
        return True
    if any(key not in value for key in rule.get("required", ())):
        return False
    names = rule.get("propertyNames", {})
    for key, item in value.items():
        inner = rule.get("properties", {}).get(key, rule.get("additionalProperties", {}))
        if inner is False or not valid(key, names) or not valid(item, inner):
            return False
    return True


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_takes_the_recipes(path: Path) -> None:
    assert valid(yaml.safe_load(path.read_text()), json_schema())


@pytest.mark.parametrize(
    "body",
    [
        "packges: {}",
        "arch: []",
        "arch: [x86_64]",
        "arch: amd64",
        "outputs: [tgz]",
        "image: {layers: {by: single, x: 1}}",
        "config: {users: [{uid: 5}]}",
        "config: {users: [{name: a, uid: 4294967295}]}",
        "config: {files: [{path: etc/x}]}",
        "limits: {rootfs: lots}",
        "trim: {docs: 1}",
        "image: {env: {'A B': c}}",
    ],
)
def test_the_schema_refuses_what_mkroot_refuses(body: str) -> None:
    assert not valid(yaml.safe_load(HEAD + body), json_schema())


@pytest.mark.parametrize(
    "body",
    [
        "arch: ['${a}']",
        "trim: {docs: '${a}'}",
        "extends: [a.yaml]\npackages: {include: [-vim]}",
        "limits: {rootfs: 5, packages: 1}",
        "disk: {size: minimal}\nimage: {cmd: [-c], user: 5}",
    ],
)
def test_the_schema_takes_variables_and_removals(body: str) -> None:
    assert valid(yaml.safe_load(HEAD + body), json_schema())


def test_what_is_needed_may_stand_in_an_extended_file() -> None:
    assert valid({"extends": ["a.yaml"]}, json_schema())
    assert not valid({"version": 1}, json_schema())


def test_every_key_is_described() -> None:
    for path, field in all_fields(schema()):
        assert described(field.type).get("description", "").endswith("."), path


def test_the_files_in_docs_are_up_to_date() -> None:
    hint = "run `python -m mkroot.recipe.reference docs`"
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == reference(), hint
    assert (ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8") == schema_text(), hint


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    check.add(subparsers)
    schema_command.add(subparsers)
    args = parser.parse_args(words)
    status: int = args.run(args)
    return status


def test_schema_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("schema") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_check_says_ok_and_prints_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(HEAD)
    assert command("check", str(tmp_path / "r.yaml")) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{tmp_path}/r.yaml: ok\n")


def test_check_tells_the_faults_of_all_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.yaml").write_text("vars: {a: b}\n" + HEAD)
    (tmp_path / "bad.yaml").write_text(HEAD + "vars: {a: b}\npackags: {}\nconfig: {hostname: _}\n")
    words = ["check", "-D", "a=c", str(tmp_path / "bad.yaml"), str(tmp_path / "good.yaml")]
    assert command(*words) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "bad.yaml:6:1: `packags`: unknown key\nhint: did you mean `packages`?\n" in err
    assert "bad.yaml: 2 faults\n" in err
    assert "good.yaml: ok\n" in err
    assert command(*words, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(one["ok"], len(one["faults"])) for one in found] == [(False, 2), (True, 0)]
    assert found[0]["faults"][0]["line"] == 6


def test_check_knows_whether_the_recipe_builds_for_an_architecture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(HEAD)
    assert command("check", "--arch", "arm64", str(tmp_path / "r.yaml")) == 1
    assert "builds for amd64" in capsys.readouterr().err
