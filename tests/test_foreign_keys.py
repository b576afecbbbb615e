"""Specs and options in the words of other tools: each key is told by what it is called here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmspec.cli import answered
from llmspec.parts.objectives import TABLE as OBJECTIVES
from llmspec.parts.phases import TABLE as PHASES
from llmspec.spec import foreign
from llmspec.spec.foreign_alignment import BY_KIND, FILTERS
from llmspec.spec.load import read_spec
from llmspec.spec.shape import places

SPEC: dict[str, Any] = {
    "name": "mine",
    "model": {"d_model": 32, "layers": 1, "context": 32, "attention": {"heads": 2}},
    "data": {"sources": {"me": {"kind": "files", "path": "*.txt"}}},
    "phases": {"first": {"kind": "pretrain", "mixture": {"me": "100%"}, "budget": "15 steps", "micro_batch_size": 4}},
}
OURS_TOO = {"max_epochs", "activation", "file", "template", "sequence_length"}
"""Words of other tools that are keys here, too, of something else: those are told where they belong."""
EVERY = [(place, word) for place, words in foreign.PLACES.items() for word in words.split()]


def problems(folder: Path, spec: dict[str, Any]) -> dict[str, str]:
    """Path -> message and hint of everything wrong with a spec."""
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    return {".".join(map(str, p.path)): f"{p.message}; {p.hint}" for p in read_spec(file).problems}


def test_every_place_is_one_and_no_word_of_ours_is_taken() -> None:
    ours = places()
    for place in (*foreign.PLACES, *foreign.FORMER):
        holder, _, key = place.rpartition(".")
        assert key == "<name>" or holder in ours[key], place
    words = [
        w
        for words in (
            *foreign.PLACES.values(),
            *foreign.FORMER.values(),
            *foreign.BUDGETS.values(),
            *foreign.ABSENT.values(),
        )
        for w in words.split()
    ]
    assert not {w for w in words if w in ours} - OURS_TOO
    assert all(w == w.lower() and "-" not in w for w in words)


@pytest.mark.parametrize("section", ["", "model", "data.sources.me", "phases.first", "decoding"])
def test_every_word_is_told_wherever_it_stands(section: str, tmp_path: Path) -> None:
    for begin in range(0, len(EVERY), 15):
        spec = yaml.safe_load(yaml.safe_dump(SPEC))
        inside = spec
        for step in section.split(".") if section else []:
            inside = inside.setdefault(step, {})
        inside |= {word: 1 for _, word in EVERY[begin : begin + 15]}
        said = problems(tmp_path, spec)
        for word in (word for _, word in EVERY[begin : begin + 15] if word not in OURS_TOO):
            line = said[f"{section}.{word}".lstrip(".")]
            names = {p.rpartition(".")[2] for p, w in EVERY if w == word} | {"kind"}
            assert any(f"`{name}`" in line for name in names), line
            assert "<name>" not in line or section, line  # one phase and one source: they are named


@pytest.mark.parametrize(("place", "old"), foreign.FORMER.items())
def test_a_key_of_earlier_versions_is_answered_with_its_new_name(place: str, old: str, tmp_path: Path) -> None:
    spec = yaml.safe_load(yaml.safe_dump(SPEC))
    *sections, new = place.replace("<name>", "first").split(".")
    inside = spec
    for step in sections:
        inside = inside.setdefault(step, {})
    value = inside.pop(new, 1)
    inside[old] = value
    line = problems(tmp_path, spec)[".".join((*sections, old))]
    assert line.startswith("unknown key") and f"did you mean `{new}`?" in line, line
    assert f"--set {place.replace('<name>', 'NAME')}=8" in foreign_option(old)


def foreign_option(key: str) -> str:
    """What `llmspec check --KEY 8` is answered with."""
    from llmspec.cli.verb import _setting

    return f"--set {_setting(key, '8', 'check')}"


def test_a_key_in_other_words_is_not_missing_as_well(tmp_path: Path) -> None:
    spec = yaml.safe_load(yaml.safe_dump(SPEC))
    spec["model"] = {"n_embd": 32, "n_layer": 1, "block_size": 32, "n_head": 2}
    spec["phases"]["first"] = {
        "kind": "pretrain",
        "datasets": "me",
        "num_epochs": 3,
        "learning_rate": 1e-3,
        "lora_r": 8,
    }
    said = problems(tmp_path, spec)
    assert not [line for line in said.values() if "missing" in line]
    assert "`lr` here, and belongs under `phases.first.optimizer`" in said["phases.first.learning_rate"]
    assert "`budget: 3 epochs of SOURCE`" in said["phases.first.num_epochs"]
    assert "`heads` here, and belongs under `model.attention`" in said["model.n_head"]
    assert "it is called `r` here, and belongs under `phases.first.adapter`" in said["phases.first.lora_r"]


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("phases.first.micro_batch_size = 8", "--set phases.first.micro_batch_size=8"),
        ("phases.first.micro_batch_size: 8", "--set phases.first.micro_batch_size=8"),
        ("phases[first].micro_batch_size=8", "--set phases.first.micro_batch_size=8"),
        ("lr=1", "`lr` belongs under `phases.first.optimizer`"),
        ("first.micro_batch_size=8", "`phases.first`"),
        ("model/layers=2", "`model.layers`"),
        ("phases.first.optimizer={kind:adamw}", "a colon needs a space behind it: `kind: adamw`"),
        ("phases.first.mixture={me:100%}", "a colon needs a space behind it: `me: 100%`"),
        ("phases.first.optimizer.lr=0,001", "write `0.001`"),
        ("phases.first.optimizer.lr=1,500", "or `1500`"),
        ("model.layers=1,5", "no fraction"),
        ("phases.first.budget=1,5M tokens", "write `1.5M tokens`"),
        ("phases.first.budget=1,000 tokens", "write `1000 tokens`"),
        ("phases.first.budget=5k", "`5k tokens` or `5k steps`"),
        ("phases.first.budget=1.000 tokens", "`1000 tokens`"),
        ("phases.first.budget=10 mins", "`10 minutes`"),
        ("data.sources.me.validation=10%", "write `tail 10%`"),
        ("data.sources.me.validation=0.1", "write `tail 10%`"),
        ("data.sources.me.validation=tail 100%", "nothing to train on"),
        ("phases.first.mixture=me", "{me: 100%}"),
        ("phases.first.mixture.me=1.0", "`100%`"),
        ("data.sources.me.validation=tail 0%", "nothing to validate with"),
    ],
)
def test_a_slip_in_a_setting_is_answered_with_what_was_meant(setting: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    said = " ".join(f"{p.message}; {p.hint}" for p in read_spec(file, [setting]).problems)
    assert hint in said


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("run mine.yaml --budget 30", "--set phases.NAME.budget=30"),
        ("check mine.yaml --layers=2", "--set model.layers=2"),
        ("check mine.yaml --model.layers 2", "--set model.layers=2"),
        ("run mine.yaml --batch-size 8", "phases.NAME.micro_batch_size=8"),
        ("run mine.yaml --epochs 3", "--set 'phases.NAME.budget=3 epochs of SOURCE'"),
        ("sample --max-new-tokens 3", "--set decoding.max_tokens=3"),
        ("sample --top-k=3", "--set decoding.top_k=3"),
        ("chat --temperature 0.5", "--set decoding.temperature=0.5"),
        ("rank --prompts q.txt --out r.jsonl --temperature 0.5", "--set decoding.temperature=0.5"),
        ("sample --prompt x --learning-rate 3", "--set"),
        ("check -", "not from standard input"),
        ("schema -o .", "-o schema.json"),
    ],
)
def test_an_option_in_other_words_is_answered_with_its_setting(
    line: str, hint: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = answered(line.split())
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    assert hint in " ".join(capsys.readouterr().err.split())


# -- phases that align -------------------------------------------------------------------------------------------------
def told_of(kind: str, section: str, words: list[str], folder: Path) -> dict[str, str]:
    """What is said of words in a phase of a kind, or below it."""
    said = dict[str, str]()
    for begin in range(0, len(words), 15):
        spec = yaml.safe_load(yaml.safe_dump(SPEC))
        inside = spec["phases"]["first"]
        inside["kind"] = kind
        for key in section.split(".") if section else []:
            inside = inside.setdefault(key, {})
        inside |= dict.fromkeys(words[begin : begin + 15], 0.5)
        found = problems(folder, spec)
        at = ".".join(["phases.first", *([section] if section else [])])
        said |= {word: found.get(f"{at}.{word}", "") for word in words[begin : begin + 15]}
    return said


@pytest.mark.parametrize("section", ["", "objective"])
@pytest.mark.parametrize("kind", BY_KIND)
def test_words_of_those_who_align_are_told_by_kind(kind: str, section: str, tmp_path: Path) -> None:
    """Where a phase has such a key of its own, one of any phase, such as the optimizer's `eps`, is not meant."""
    if section and kind not in OBJECTIVES:
        return  # its objective is that of any text
    own, asked = shape_of(kind, section), dict[str, str]()
    for place, said in BY_KIND[kind].items():
        holder, _, name = place.rpartition(".")
        assert ".".join(["phases.<name>", *([holder] if holder else [])]) in places()[name]
        asked |= {word: place for word in said.split() if word not in own}
    found = told_of(kind, section, list(asked), tmp_path)
    for word, place in asked.items():
        holder, _, name = place.rpartition(".")
        assert f"`{name}`" in found[word] and "`eps`" not in found[word], (word, found[word])
        assert ("belongs under" in found[word]) == (holder != section), (word, found[word])
        assert holder == section or f"`phases.first{'.' * bool(holder)}{holder}`" in found[word]


def shape_of(kind: str, section: str) -> set[str]:
    """The keys of a phase of a kind, or of its objective."""
    part = PHASES[kind]
    found = OBJECTIVES[kind if kind in OBJECTIVES else "cross_entropy"] if section else part
    return {field.alias or name for name, field in found.model_fields.items()}


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
def test_what_is_learned_from_has_no_filters(kind: str, tmp_path: Path) -> None:
    for said in told_of(kind, "", list(FILTERS), tmp_path).values():
        assert "whole distribution" in said and "`temperature` alone" in said and "decoding" not in said


def test_of_other_kinds_the_same_words_mean_what_they_meant(tmp_path: Path) -> None:
    said = told_of("sft", "", ["epsilon", "num_iterations"], tmp_path)
    assert "`eps`" in said["epsilon"] and "budget: 0.5 steps" in said["num_iterations"]
