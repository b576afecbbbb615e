# ruff: noqa: E501  messages stand as they are printed
"""Bad input by name, each with the whole message that a user reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmspec.core.problems import Mark, Problem, SpecError, dotted
from llmspec.spec import load_spec, read_spec
from llmspec.spec.yaml12 import scalar_or_flow

GOOD = """\
name: tiny
model:
  context: 16
  d_model: 8
  layers: 1
  attention: {kind: grouped_query, heads: 2}
tokenizer: {kind: bpe, vocab: 300}
data:
  sources:
    plays: {kind: inline, documents: [To be, or not]}
    wiki: {kind: inline, records: [{q: Why, a: So}]}
phases:
  pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 15%}, budget: 400 steps}
  chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
decoding: {temperature: 0.8}
"""


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


GOLDEN = {
    "a misspelt key": (
        "layers: 1",
        "layer: 1",
        """\
spec.yaml:5:3: model.layer: unknown key
    | layer: 1
    | ^^^^^
    hint: did you mean `layers`?
    else: nothing would read it, and `layers` would be missing""",
    ),
    "a misspelt key that has a default": (
        "tokenizer:",
        "tokenizr:",
        """\
spec.yaml:7:1: tokenizr: unknown key
    | tokenizr: {kind: bpe, vocab: 300}
    | ^^^^^^^^
    hint: did you mean `tokenizer`?
    else: nothing would read it, and `tokenizer` would keep its default, {kind: byte}""",
    ),
    "a key in the wrong place": (
        "layers: 1",
        "layers: 1\n  vocab: 9",
        """\
spec.yaml:6:3: model.vocab: unknown key
    | vocab: 9
    | ^^^^^
    hint: `vocab` stands under `tokenizer`
    else: nothing would read it""",
    ),
    "a kind written twice": (
        "heads: 2",
        "heads: 2, kind: multi_head, kv_heads: 1",
        """\
spec.yaml:6:46: model.attention.kind: `kind` is written twice, here and on line 6
    | attention: {kind: grouped_query, heads: 2, kind: multi_head, kv_heads: 1}
    |                                            ^^^^
    hint: keep one of the two
    else: one of the two values would be dropped without a word""",
    ),
    "a key of another kind": (
        "grouped_query, heads: 2",
        "multi_head, kv_heads: 2",
        """\
spec.yaml:6:33: model.attention.kv_heads: `kv_heads` belongs to kind grouped_query; this is multi_head
    | attention: {kind: multi_head, kv_heads: 2}
    |                               ^^^^^^^^
    hint: remove `kv_heads`, or write `kind: grouped_query`
    else: nothing would read it""",
    ),
    "an unknown kind": (
        "kind: bpe",
        "kind: bpee",
        """\
spec.yaml:7:19: tokenizer.kind: no tokenizer is of kind `bpee`
    | tokenizer: {kind: bpee, vocab: 300}
    |                   ^^^^
    hint: did you mean `bpe`? (kinds: byte, char, bpe)""",
    ),
    "a missing key": (
        ", budget: 400 steps",
        "",
        """\
spec.yaml:13:3: phases.pretrain.budget: `budget` is missing
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 15%}}
    | ^^^^^^^^
    hint: budget: how long: `2M tokens`, `400 steps`, `3 epochs of wiki` or `2 PFLOPs`
    else: it has no default""",
    ),
    "a number in quotes": (
        "0.8",
        '"8e-1"',
        """\
spec.yaml:15:25: decoding.temperature: expected a number, not the text `8e-1`
    | decoding: {temperature: "8e-1"}
    |                         ^^^^^^
    hint: write `8e-1` without quotes""",
    ),
    "a number with a unit": (
        "context: 16",
        "context: 2k",
        """\
spec.yaml:3:12: model.context: expected a whole number, not the text `2k`
    | context: 2k
    |          ^^
    hint: write `2000`, as a plain number""",
    ),
    "yes for true": (
        "layers: 1",
        "layers: 1\n  tied_embeddings: yes",
        """\
spec.yaml:6:20: model.tied_embeddings: expected true or false, not the text `yes`
    | tied_embeddings: yes
    |                  ^^^
    hint: write `true`""",
    ),
    "a name for a part": (
        "layers: 1",
        "layers: 1\n  position: rop",
        """\
spec.yaml:6:13: model.position: a position is a map of settings, not the text `rop`
    | position: rop
    |           ^^^
    hint: position: {kind: rope}""",
    ),
    "a negative number": (
        "layers: 1",
        "layers: -1",
        """\
spec.yaml:5:11: model.layers: has to be more than 0, not -1
    | layers: -1
    |         ^^
    hint: layers: number of blocks""",
    ),
    "a budget without its unit": (
        "400 steps",
        "400",
        """\
spec.yaml:13:72: phases.pretrain.budget: expected a budget with its unit, such as `2M tokens`, `400 steps`, `3 epochs of wiki` or `2 PFLOPs`
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 15%}, budget: 400}
    |                                                                      ^^^
    hint: write `400 tokens` or `400 steps`""",
    ),
    "a share without its sign": (
        "wiki: 15%",
        "wiki: 0.15",
        """\
spec.yaml:13:58: phases.pretrain.mixture.wiki: expected a percentage, such as `85%`
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wiki: 0.15}, budget: 400 steps}
    |                                                        ^^^^
    hint: write `15%`""",
    ),
    "a mixture that is not whole": (
        "plays: 85%",
        "plays: 75%",
        """\
spec.yaml:13:39: phases.pretrain.mixture: the shares of a mixture total 100%, not 90%
    | pretrain: {kind: pretrain, mixture: {plays: 75%, wiki: 15%}, budget: 400 steps}
    |                                     ^""",
    ),
    "an unknown source": (
        "wiki: 15%",
        "wikki: 15%",
        """\
spec.yaml:13:52: phases.pretrain.mixture.wikki: no source is called `wikki`
    | pretrain: {kind: pretrain, mixture: {plays: 85%, wikki: 15%}, budget: 400 steps}
    |                                                  ^^^^^
    hint: did you mean `wiki`?
    else: the phase would have nothing to read for it""",
    ),
    "epochs of a source that is not read": (
        "of wiki",
        "of plays",
        """\
spec.yaml:14:68: phases.chat.budget: epochs are counted on `plays`, which is not in the mixture
    | chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of plays}
    |                                                                  ^^^^^^^^^^^^^^^^^
    hint: there is `wiki`
    else: the phase would never end""",
    ),
    "an unknown phase": (
        "from: pretrain",
        "from: pretrian",
        """\
spec.yaml:14:27: phases.chat.from: no phase is called `pretrian`
    | chat: {kind: sft, from: pretrian, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    |                         ^^^^^^^^
    hint: did you mean `pretrain`?
    else: there would be no weights to start from""",
    ),
    "phases in a circle": (
        "kind: pretrain,",
        "kind: pretrain, from: chat,",
        """\
spec.yaml:14:27: phases.chat.from: phases start from each other in a circle: `pretrain` → `chat` → `pretrain`
    | chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    |                         ^^^^^^^^
    hint: one of them starts without `from:`
    else: none of them could run first""",
    ),
    "a phase from itself": (
        "from: pretrain",
        "from: chat",
        """\
spec.yaml:14:27: phases.chat.from: the phase `chat` starts from itself
    | chat: {kind: sft, from: chat, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    |                         ^^^^
    hint: leave `from:` out, or name another phase
    else: it could never run""",
    ),
    "a vocabulary smaller than its specials": (
        "vocab: 300",
        "vocab: 4",
        """\
spec.yaml:7:31: tokenizer.vocab: a vocabulary of 4 is smaller than its 6 special tokens and the 256 bytes
    | tokenizer: {kind: bpe, vocab: 4}
    |                               ^
    hint: vocab: 262 or more
    else: some text could not be spelled""",
    ),
    "a role that is none": (
        "records: [{q: Why, a: So}]",
        "records: [{q: Why}], dialogue: {usr: '{q}'}",
        """\
spec.yaml:11:58: data.sources.wiki.dialogue.usr: `usr` is not a role
    | wiki: {kind: inline, records: [{q: Why}], dialogue: {usr: '{q}'}}
    |                                                      ^^^
    hint: did you mean `user`?""",
    ),
    "a name that cannot be a folder": (
        "name: tiny",
        "name: my model/2",
        """\
spec.yaml:1:7: name: `my model/2` cannot be a name: a letter (a to z) or digit, then letters, digits, `.`, `_` and `-`
    | name: my model/2
    |       ^^^^^^^^^^
    hint: such as `my-model-2`""",
    ),
    "a phase that climbs out of the run": (
        "  chat:",
        "  ../chat:",
        """\
spec.yaml:14:3: phases."../chat": `../chat` cannot name a phase: a letter (a to z) or digit, then letters, digits, `.`, `_` and `-`
    | ../chat: {kind: sft, from: pretrain, mixture: {wiki: 100%}, budget: 2 epochs of wiki}
    | ^^^^^^^
    else: its folder in the run directory has this name""",
    ),
    "an empty section": (
        "decoding: {temperature: 0.8}",
        "decoding:",
        """\
spec.yaml:15:1: decoding: `decoding` is a map of settings, not nothing
    | decoding:
    | ^^^^^^^^
    hint: write its keys below it, indented; or remove it""",
    ),
    "a duplicate key": (
        "layers: 1",
        "layers: 1\n  context: 32",
        """\
spec.yaml:6:3: model.context: `context` is written twice, here and on line 3
    | context: 32
    | ^^^^^^^
    hint: keep one of the two
    else: one of the two values would be dropped without a word""",
    ),
    "a tab": (
        "  layers: 1",
        "\tlayers: 1",
        """\
spec.yaml:5:1: a tab stands here, and YAML takes only spaces
    |  layers: 1
    | ^
    hint: indent with spaces; most editors convert tabs""",
    ),
    "an open bracket": (
        "heads: 2}",
        "heads: 2",
        """\
spec.yaml:6:14: this `{` is never closed
    | attention: {kind: grouped_query, heads: 2
    |            ^
    hint: close it with `}`""",
    ),
    "an open quote": (
        "name: tiny",
        'name: "tiny',
        """\
spec.yaml:1:7: this quote is never closed
    | name: "tiny
    |       ^
    hint: close it with the same quote""",
    ),
    "uneven indentation": (
        "  layers: 1",
        "   layers: 1",
        """\
spec.yaml:5:4: this line is indented by 3 spaces, unlike its neighbours
    | layers: 1
    | ^^^^^^^^^
    hint: keys of one map start in the same column""",
    ),
    "no colon": (
        "  layers: 1",
        "  layers 1",
        """\
spec.yaml:5:3: this line has no `:` after its key
    | layers 1
    | ^^^^^^^^
    hint: write `key: value`""",
    ),
    "a colon too many": (
        "name: tiny",
        "name: tiny: one",
        """\
spec.yaml:1:11: a second `: ` stands in this value
    | name: tiny: one
    |           ^
    hint: quote the value: `key: "a: b"`""",
    ),
    "a tag": (
        "name: tiny",
        "name: !!python/object/apply:os.system [ls]",
        """\
spec.yaml:1:7: name: `!!python/object/apply:os.system` is a tag, and a spec has none
    | name: !!python/object/apply:os.system [ls]
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: remove it; quote text that starts with `!`
    else: tags can name code to run
spec.yaml:1:7: name: expected text, not a list
    | name: !!python/object/apply:os.system [ls]
    |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: name: name of the model and of its run directory""",
    ),
    "a key that is no text": (
        "name: tiny",
        "name: tiny\n2: x",
        """\
spec.yaml:2:1: a key has to be text, and `2` is read as a number
    | 2: x
    | ^
    hint: quote it: `"2":`""",
    ),
    "a merge key": (
        "name: tiny",
        "name: tiny\n<<: {seed: 1}",
        """\
spec.yaml:2:1: `<<` merges maps in YAML 1.1 only
    | <<: {seed: 1}
    | ^^
    hint: layer whole files with `extends:`, or write the keys out""",
    ),
    "two documents": (
        "decoding:",
        "---\ndecoding:",
        """\
spec.yaml:15:1: a second document starts here; a spec is one document
    | ---
    | ^^^
    hint: remove the `---` line, or keep the rest in a file of its own and `extends:` it""",
    ),
    "a filter order with a slip": (
        "0.8",
        "0.8, order: [temprature]",
        """\
spec.yaml:15:37: decoding.order: no filter is named `temprature`
    | decoding: {temperature: 0.8, order: [temprature]}
    |                                     ^
    hint: did you mean `temperature`?
    else: the order could not be followed""",
    ),
    "infinity": (
        "0.8",
        ".inf",
        """\
spec.yaml:15:25: decoding.temperature: expected a finite number, not .inf
    | decoding: {temperature: .inf}
    |                         ^^^^
    hint: temperature: divides the logits""",
    ),
}


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
