"""YAML and JSON without surprises: values against the tables of YAML 1.2, what is refused with its line, and our files."""

import json
import os
from pathlib import Path

import pytest
import yaml
from support.errors import assert_says

import lab
from lab.core import documents, names
from lab.core.documents import json_value, read_yaml, yaml_text, yaml_value
from lab.core.errors import LabError

FILES = [*Path(lab.__file__).parent.glob("**/*.yaml")]


@pytest.mark.parametrize(
    ("text", "value"),
    [  # https://yaml.org/spec/1.2.2/#1032-tag-resolution, and what YAML 1.1 took for something else
        *(("null", None), ("~", None), ("", None), ("a", "a"), ("true", True), ("False", False), ("TRUE", True)),
        *(("0", 0), ("-19", -19), ("0o7", 7), ("0x3A", 58), ("010", 10), ("+12", 12)),
        *(("0.", 0.0), ("-0.0", 0.0), (".5", 0.5), ("+12e03", 12000.0), ("1e-3", 0.001), ("-2E+05", -200000.0)),
        *((".inf", float("inf")), ("-.Inf", float("-inf"))),
        *(("yes", "yes"), ("on", "on"), ("No", "No"), ("1:30", "1:30"), ("1_000", "1_000"), ("2024-13-45", "2024-13-45")),
        *(("'5'", "5"), ('"true"', "true"), ("|\n  5", "5"), ("[a, 1, [b]]", ["a", 1, ["b"]]), ("{no: off}", {"no": "off"})),
        *(("0b1", "0b1"), ("nan", "nan"), ("+", "+"), (".", "."), ("1e", "1e"), ("-", [None])),
    ],
)
def test_scalars_of_yaml_1_2(text, value):
    assert yaml_value(text, "it") == value and type(yaml_value(text, "it")) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, ["'a'", "twice"]),
        ("a: &x 1", 1, ["anchors and aliases"]),
        ("a: 1\nb: *x", 2, ["anchors and aliases"]),
        ("a: !!int 3", 1, ["tags"]),
        ("a: !!python/object/apply:os.system [x]", 1, ["tags"]),
        ("a: ! 3", 1, ["tags"]),
        ("a: 1\n1: 2", 2, ["1 is no text", "quotation marks"]),
        ("true: 2", 1, ["True is no text"]),
        ("[a]: 2", 1, ["is no text"]),
        ("<<: {a: 1}", 1, ["'<<'"]),
        ("a: 1\n---\nb: 2", 2, ["one document"]),
        ("[" * 60 + "]" * 60, 1, ["nested"]),
        ("- x\n" * 60_000, None, ["50,000 values"]),
        ("a: [", 2, []),
        ("a: \x00", None, ["not allowed"]),
        ("a: \ud800", None, ["not UTF-8"]),
        ("x" * (documents.LARGEST + 1), None, ["longer than"]),
    ],
)
def test_what_yaml_refuses(text, line, words):
    with pytest.raises(LabError) as error:
        yaml_value(text, "recipe mine")
    assert_says(error, "recipe mine", *words, *([f"line {line}"] if line else []))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_of_the_package_mean_the_same_as_ever(file):
    """In YAML 1.1 as in 1.2; and what is written is read back by both."""
    value = yaml_value(file.read_bytes(), file.name)
    assert value == yaml.safe_load(file.read_text())
    assert yaml_value(yaml_text(value), file.name) == value == yaml.safe_load(yaml_text(value))


def test_text_that_looks_like_something_else_stands_in_quotes():
    odd = ["1e5", "0o7", "yes", "1:30", "010", "1_000", "2024-01-01", ".5", "null", "", "=", "<<", "a: b", "é", "+12e03", "-"]
    assert yaml_value(yaml_text(odd), "it") == odd == yaml.safe_load(yaml_text(odd))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands there twice"),
        ("[" * 100_000, "nested deeper"),
        ("[" * 50 + "]" * 50, "nested deeper"),
        ("9" * 5000, "5,000 digits"),
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("1e999", "too large"),
        ('"\\ud800"', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        (b'"\xff"', "can't decode"),
        ("", "Expecting value"),
        ("{} {}", "Extra data"),
    ],
)
def test_what_json_refuses(text, word):
    with pytest.raises(ValueError, match=word):
        json_value(text)


def test_json_is_json():
    content = {"a": [1, -2.5, 1e-300, True, None, "é\n"], "b": {"c": {}, "d": 2**63}}
    assert json_value(json.dumps(content)) == content == json_value(b"\xef\xbb\xbf" + json.dumps(content).encode())


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 31)
    for name, word in {
        "fifo": "no regular file",
        "folder": "is a folder",
        "huge": "bytes",
        "none": "there is no recipe file",
    }.items():
        with pytest.raises(LabError, match=word):
            read_yaml(tmp_path / f"{name}.yaml", f"recipe {name}.yaml")
    with pytest.raises(LabError, match="cannot be read"):
        read_yaml(tmp_path / f"{'x' * 300}.yaml", "recipe x")


@pytest.mark.parametrize(
    ("name", "path", "word"),
    [
        *(("news", False, ""), ("新闻", False, ""), ("a b", False, ""), ("a/b", True, ""), ("../a", True, "")),
        *(("", False, "empty"), ("a/b", False, "separator"), ("..", False, "separator"), ("a\\b", False, "separator")),
        *(("a\n", False, "control"), ("a\x00", True, "control"), ("\udcff", False, "UTF-8")),
        *(("x" * 256, True, "255 bytes"), ("é" * 128, False, "255 bytes"), ("a/" * 5000, True, "255 bytes")),
    ],
)
def test_names_of_files(name, path, word):
    assert names.fault(name, path) == "" if word == "" else word in names.fault(name, path)
