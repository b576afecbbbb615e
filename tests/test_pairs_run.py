"""Pairs of a source and its target, the whole way: read, trained on, answered, resumed; and what is wrong with them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_masked_run import rows
from test_resume import kill_after, same

import llmspec
from llmspec.core.problems import DataError, SpecError
from llmspec.core.text_scores import exact_match
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.runs import checkpoint
from llmspec.spec import load_spec

DIGITS = ["nul", "een", "twee", "drie", "vier", "vijf", "zes", "zeven", "acht", "negen"]
SPEC = """\
name: digits
seed: 3
device: CPU
model:
  context: 24
  d_model: 32
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: gelu, d_ff: 64}
  encoder: {layers: 1, context: 12}
  dropout: 0.05
tokenizer: {kind: bpe, vocab: 300}
data:
  sources:
    digits:
      kind: files
      path: digits.jsonl
      validation: hash 15%
      max_epochs: 500
      replace: {"_": " "}
      source: "{a}"
      target: "{b}"
phases:
  learn:
    kind: seq2seq
    mixture: {digits: 100%}
    budget: 160 steps
    micro_batch_size: 16
    optimizer: {kind: muon, lr: 2e-2, adamw: {lr: 1e-2}}
    checkpoint_every: 20 steps
    evaluate_every: 80 steps
    sample_every: 80 steps
decoding: {temperature: 0}
"""


def records() -> list[dict[str, Any]]:
    """Numbers of three digits, and their digits as words."""
    return [{"a": "_".join(f"{n:03}"), "b": " ".join(DIGITS[int(d)] for d in f"{n:03}")} for n in range(0, 1000, 3)]


def write(folder: Path, text: str = SPEC, found: list[dict[str, Any]] | None = None) -> Path:
    lines = [json.dumps(record) for record in (records() if found is None else found)]
    (folder / "digits.jsonl").write_text("\n".join(lines), "utf-8")
    return tiny.write(folder, text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    spec = write(folder)
    done = tiny.call("run", spec, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return spec, folder / "run"


def test_it_learns_and_measures_its_answers(straight: tuple[Path, Path]) -> None:
    spec, run = straight
    found = [
        {m["name"] + m.get("unit", ""): m for m in row["validation"]}
        for row in rows(run, "metrics", "learn")
        if "validation" in row
    ]
    assert len(found) == 2 and {m["source"] for m in found[-1].values()} == {"digits"}
    first, last = ({name: m["value"] for name, m in one.items()} for one in (found[0], found[-1]))
    assert last["lossnats/token"] < first["lossnats/token"]
    assert last["exact match"] > 0.8 and last["chrF"] > 0.9 and last["ROUGE-L"] > 0.9
    model = llmspec.open(run)
    (found_pairs,) = prepare(llmspec.compile(load_spec(spec).spec)).validation("learn").values()
    codec, pairs = model.codec, [found_pairs.pair(i) for i in range(found_pairs.pairs)]
    # What `sample` gives a model is what validation asked it.
    texts = [codec.decode(source) for source, _ in pairs]
    assert [model.tokens(text) for text in texts] == [source for source, _ in pairs]
    said = [model.generate(text)[0].text for text in texts]
    assert exact_match(said, [codec.decode(target) for _, target in pairs]) == pytest.approx(last["exact match"])


def test_samples_have_what_was_wanted(straight: tuple[Path, Path]) -> None:
    *_, last = rows(straight[1], "samples", "learn")
    wanted = {re.sub("_", " ", r["a"]): r["b"] for r in records()}
    assert last["target"] == wanted[last["prompt"]] and last["from"] == "validation text of digits"


def test_it_goes_on_where_it_was_killed(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, run = straight
    out = tmp_path / "killed"
    process = subprocess.Popen(
        tiny.command("run", spec, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert kill_after(process, out, 101, 0.0)
    assert tiny.call("run", spec, "--out", out).returncode == 0
    same(facts(run), facts(out))


def facts(run: Path) -> dict[str, object]:
    """All that must be equal."""
    newest, _ = checkpoint.newest(run / "learn")
    assert newest is not None
    names = (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR)
    files = {name: (newest.folder / name).read_bytes() for name in names}
    return {**files, **{name: rows(run, name, "learn") for name in ("metrics", "samples")}}


def test_a_decoder_alone_reads_pairs_in_one_row(tmp_path: Path) -> None:
    text = SPEC.replace("  encoder: {layers: 1, context: 12}\n", "  mask: {kind: prefix}\n").replace(
        "context: 24", "context: 40"
    )
    text = text.replace("160 steps", "24 steps").replace("80 steps", "24 steps")
    spec, run = write(tmp_path, text), tmp_path / "run"
    done = tiny.call("run", spec, "--out", run)
    assert done.returncode == 0, done.stderr
    assert "no token sees the future beyond the prefix" in done.stderr + done.stdout
    prepared = prepare(llmspec.compile(load_spec(spec).spec))
    held_out, eos = prepared.validation("learn")["digits"], prepared.codec.specials.eos
    model = llmspec.open(run)
    saved = llmspec.open(model.save(tmp_path / "saved"))
    for i in range(held_out.pairs):
        source, target = held_out.pair(i)
        assert source[-1] == target[-1] == eos and source.count(eos) == 2 and target.count(eos) == 1
        asked = prepared.codec.decode(source)
        assert model.tokens(asked) == saved.tokens(asked) == source
    batch = prepared.stream("learn").batch(0)
    counted = [prepared.codec.decode(row[w > 0].tolist()) for row, w in zip(batch.targets, batch.weights, strict=True)]
    assert all(set(re.sub("|".join(DIGITS), "", said)) <= {" "} for said in counted), "of sources, nothing counts"


def test_explain_shows_answers_and_what_they_looked_at(straight: tuple[Path, Path]) -> None:
    shown = tiny.call("explain", straight[1]).stdout
    assert "exact match" in shown and "ROUGE-L" in shown and "wanted:" in shown and "chrF" in shown
    *_, last = rows(straight[1], "samples", "learn")
    answer = last["attention"]
    assert [word for word, _ in answer] == last["text"].split() and last["text"] == last["target"]
    for (_, looks), digit in zip(answer, last["prompt"].split(), strict=True):
        assert digit in {at for at, _ in looks} and 0 < sum(share for _, share in looks) <= 1.001
    assert re.search(r"← \d+ \d+%", shown)


# -- bad input -------------------------------------------------------------------------------------------------------
def planned(folder: Path, found: list[dict[str, Any]], *overrides: str, text: str = SPEC) -> Any:
    return llmspec.compile(load_spec(write(folder, text, found), list(overrides)).spec)


def test_half_pairs_are_named_and_left_out(tmp_path: Path) -> None:
    odd = [{"a": "1", "b": ""}, {"a": "  ", "b": "een"}, {"b": "een"}, {"a": "2_3", "b": None}]
    plan = planned(tmp_path, [*records(), *odd])
    (lost,) = prepare(plan).losses
    places = lost.dropped.examples.get("empty", []) + lost.not_validated.examples.get("empty", [])
    total = lost.dropped.counts.get("empty", 0) + lost.not_validated.counts.get("empty", 0)
    assert total == 4 and len(places) == 4
    assert sum("its source" in p for p in places) == 2 and sum("its target" in p for p in places) == 2
    assert sum("digits.jsonl:335" in p for p in places) == 1
    with pytest.raises(DataError, match="its target"):
        prepare(planned(tmp_path, [*records()[:20], *odd, *odd]))


@pytest.mark.parametrize("side", ["source", "target"])
def test_what_is_too_long_is_counted_and_cut_only_where_the_spec_says_so(tmp_path: Path, side: str) -> None:
    name = "a" if side == "source" else "b"
    found = [{**r, name: " ".join([r[name]] * 9)} if i % 20 == 0 else r for i, r in enumerate(records())]
    left = prepare(planned(tmp_path, found))
    cut = prepare(planned(tmp_path, found, f"phases.learn.truncation={side}"))
    long = left.stream("learn").dropped["digits"]["too long"]
    assert long and cut.stream("learn").cropped("digits")[side] == long
    assert not cut.stream("learn").dropped["digits"]
    assert any(f"cuts the {side} of {long} training pairs" in said for said in notices(cut))
    batch = cut.stream("learn").drawn("digits", 10_000)
    assert batch.encoder_filled is not None and batch.encoder_filled.max() <= 12 and batch.filled.max() <= 24
    end = cut.codec.specials.eos
    assert all(batch.targets[i, n - 1] == end for i, n in enumerate(batch.filled)), "a cut target ends, too"


def test_what_helps_against_pairs_that_are_not_read_is_said(tmp_path: Path) -> None:
    one_sided = [{**record, "b": ""} for record in records()]
    with pytest.raises(DataError, match="nothing of digits can be trained on") as caught:
        prepare(planned(tmp_path, one_sided, "tokenizer={kind: byte}"))
    assert all("a text on both sides" in problem.hint for problem in caught.value.problems)
    long = [{**record, "b": record["b"] * 9} for record in records()[:90]]
    with pytest.raises(DataError, match="too long") as caught:
        prepare(planned(tmp_path, [*records(), *long], "tokenizer={kind: byte}"))
    assert "`truncation: source` (target, both)" in caught.value.problems[0].hint


def test_what_is_no_pair_is_refused(tmp_path: Path) -> None:
    plain = SPEC.replace('      source: "{a}"\n      target: "{b}"\n', '      text: "{a}"\n')
    with pytest.raises(SpecError, match="reads pairs"):
        planned(tmp_path, records(), text=plain)
    unshaped = SPEC.replace('      source: "{a}"\n      target: "{b}"\n', "")
    with pytest.raises(DataError, match="no pairs of a known format") as wrong:
        prepare(planned(tmp_path, records(), text=unshaped))
    assert "source:" in wrong.value.problems[0].hint and wrong.value.problems[0].path[-1] == "digits"
    turns = [{"role": "user", "content": "what is the word for"}, {"role": "assistant", "content": "nobody knows it"}]
    talk = [{"messages": [{**t, "content": f"{t['content']} {i}"} for t in turns * (1 + i % 2)]} for i in range(40)]
    with pytest.raises(DataError, match="no pair of one question and its answer"):
        prepare(planned(tmp_path, talk, "tokenizer={kind: byte}", text=unshaped))
    for half, said in (('      target: "{b}"\n', "half a pair"), ('      source: "{a}"\n', "half a pair")):
        with pytest.raises(SpecError, match=said):
            planned(tmp_path, records(), text=SPEC.replace(half, ""))
    with pytest.raises(SpecError, match="keep them or `dialogue:`"):
        planned(tmp_path, records(), "data.sources.digits.dialogue={user: '{a}', assistant: '{b}'}")
    with pytest.raises(DataError, match="no record has a field `c`"):
        prepare(planned(tmp_path, records(), "data.sources.digits.target='{c}'"))
    decoder = SPEC.replace("  encoder: {layers: 1, context: 12}\n", "  mask: {kind: prefix}\n")
    with pytest.raises(SpecError, match="decoder alone reads source and target in one row"):
        planned(tmp_path, records(), "phases.learn.truncation=source", text=decoder)


# -- files that are joined -------------------------------------------------------------------------------------------
def test_entries_of_one_key_become_one_record(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text(json.dumps({str(i): {"name": f"n_{i}", "rank": i} for i in range(40)}))
    (tmp_path / "de.json").write_text(json.dumps({str(i): f"m_{i}" for i in range(1, 41)}))
    text = SPEC.replace("path: digits.jsonl", "path: [en.json, de.json]\n      join: true")
    text = (
        text.replace("{kind: bpe, vocab: 300}", "{kind: byte}")
        .replace('"{a}"', '"{en.name} {en.rank}"')
        .replace('"{b}"', '"{de}"')
    )
    prepared = prepare(llmspec.compile(load_spec(tiny.write(tmp_path, text)).spec))
    found = prepared.validation("learn")["digits"]
    for i in range(found.pairs):
        source, target = (prepared.codec.decode(ids) for ids in found.pair(i))
        n = int(source.split()[-1])
        assert (source, target) == (f"n {n} {n}", f"m {n}")
    (lost,) = prepared.losses
    assert lost.records + lost.held_out == 41
    assert lost.dropped.counts.get("empty", 0) + lost.not_validated.counts.get("empty", 0) == 2
    (tmp_path / "de.json").write_text("[1, 2]")
    with pytest.raises(DataError, match="no keys to join by"):
        prepare(llmspec.compile(load_spec(tiny.write(tmp_path, text)).spec))
    with pytest.raises(DataError, match=r"only en\.json"):
        prepare(llmspec.compile(load_spec(tiny.write(tmp_path, text.replace(", de.json", ""))).spec))
