# ruff: noqa: E501  messages stand as they are printed
"""Bad input by name, each with the whole message that a user reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spec_messages import GOLDEN, GOOD

from llmspec.core.problems import Mark, Problem, SpecError, dotted
from llmspec.spec import load_spec, read_spec
from llmspec.spec.yaml12 import scalar_or_flow


def errors(folder: Path, text: str | bytes) -> str:
    """Everything that is printed for a spec, with `spec.yaml` for its path."""
    file = folder / "spec.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    return str(caught.value).replace(str(file), "spec.yaml").replace(str(folder), "DIR")


def test_the_good_one_is_good(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(GOOD)
    loaded = load_spec(tmp_path / "spec.yaml", ["seed=3"])
    assert loaded.spec.seed == 3 and not loaded.problems
    assert loaded.marks["model", "layers"][1] == Mark(str(tmp_path / "spec.yaml"), 5, 11, "  layers: 1", 10, 1)
    assert loaded.files == ((tmp_path / "spec.yaml", GOOD),)
    problem = loaded.locate(Problem("too deep", ("model", "layers", "x")))
    assert problem.mark is not None and problem.mark.line == 5


@pytest.mark.parametrize("name", list(GOLDEN))
def test_messages(tmp_path: Path, name: str) -> None:
    old, new, message = GOLDEN[name]
    assert GOOD.count(old) >= 1
    assert errors(tmp_path, GOOD.replace(old, new, 1)) == message


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("layers: 1", "layers: one").replace("heads: 2}", "heads: 2").replace("plays: 85%", "plays: 5")
    text = text.replace("0.8", "cold").replace("kind: bpe", "kind: pbe")
    assert [line.split(": ")[0] for line in errors(tmp_path, text).split("\n") if line.startswith("spec.yaml")] == [
        "spec.yaml:5:11",
        "spec.yaml:6:14",
        "spec.yaml:7:19",
        "spec.yaml:13:47",
        "spec.yaml:15:25",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(GOOD)
    assert [str(p).replace(str(tmp_path), "DIR") for p in read_spec(tmp_path / "quikstart.yaml").problems] == [
        "DIR/quikstart.yaml:1:1: there is no file `DIR/quikstart.yaml`\n    hint: did you mean `DIR/quickstart.yaml`?"
    ]
    assert [str(p).replace(str(tmp_path), "DIR") for p in read_spec(tmp_path).problems] == [
        "DIR:1:1: `DIR` is a folder\n    hint: name the spec file inside it: quickstart.yaml"
    ]
    assert "there is no folder" in str(read_spec(tmp_path / "no" / "x.yaml").problems[0])
    assert read_spec("a\0b").problems


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "spec.yaml:1:1: the file is empty\n    hint: a spec needs at least name, model, data and phases"),
        (
            b"# only words\n",
            "spec.yaml:1:1: the file is empty\n    hint: a spec needs at least name, model, data and phases",
        ),
        (
            b"- a\n",
            "spec.yaml:1:1: a spec is a map of keys, not a list\n    | - a\n    | ^\n    hint: start with `name: my-model`",
        ),
        (
            b"name: x\nmodel: caf\xe9\n",
            "spec.yaml:2:11: this is not UTF-8 (byte 0xe9)\n    hint: save the file as UTF-8",
        ),
        (b"name: \x00\n", "the character U+0000 cannot stand in a YAML file"),
        (b"a: " + b"[" * 5000, "nested more than 48 levels deep"),
        (
            b"a: &a [x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (c + 1, c + 1, b",".join([b"*%c" % c] * 8)) for c in range(97, 110)),
            "holds more than 50,000 values once its aliases are written out",
        ),
        (b"a: &a [*a]\n", "`*a` repeats something that is not named before it"),
    ],
)
def test_files_that_are_no_spec(tmp_path: Path, raw: bytes, message: str) -> None:
    assert message in errors(tmp_path, raw)


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_spec(file).spec.name == "tiny"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(GOOD)
    file.chmod(0)
    assert "cannot be read" in str(read_spec(file).problems[0])


def test_paths_print_so_that_set_can_read_them() -> None:
    assert dotted(("data", "sources", "my.wiki", "files", 0)) == 'data.sources."my.wiki".files[0]'


def test_one_value_alone() -> None:
    assert [scalar_or_flow(t) for t in ("3e-4", " no ", "[a, 1]", "{kind: rope}", '"3"', "")] == [
        3e-4,
        "no",
        ("a", 1),
        {"kind": "rope"},
        "3",
        None,
    ]
    for text in ("[a", "a: b", "!x y", "1\nb: 2", "*a"):
        with pytest.raises(SpecError, match="cannot be read as a value"):
            scalar_or_flow(text)


def test_importing_the_spec_language_imports_neither_numpy_nor_tinygrad() -> None:
    import subprocess
    import sys

    code = "import sys, llmspec.spec; print([m for m in ('numpy', 'tinygrad', 'tokenizers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
