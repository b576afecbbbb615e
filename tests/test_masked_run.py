"""A run that predicts masked tokens: it learns, goes on where it was killed, counts what it hides, and fills masks."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import tiny
from test_resume import kill_after, same
from typer.testing import CliRunner

import llmspec
from llmspec.cli.app import app
from llmspec.core.problems import LlmspecError
from llmspec.data.prepare import prepare
from llmspec.runs import checkpoint
from llmspec.spec import load_spec

SPEC = """\
name: masked
seed: 3
device: CPU
model:
  context: 32
  d_model: 32
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mask: {kind: bidirectional}
  mlp: {kind: gelu, d_ff: 64}
  dropout: 0.1
tokenizer: {kind: bpe, vocab: 300, special_tokens: [mask]}
data: {sources: {docs: {kind: python_docs, validation: tail 1%, license: PSF-2.0}}}
phases:
  pretrain:
    kind: masked_lm
    mixture: {docs: 100%}
    budget: 60 steps
    micro_batch_size: 8
    gradient_accumulation_steps: 2
    optimizer: {kind: adamw, lr: 2e-2}
    objective: {whole_word_mask: true}
    checkpoint_every: 3 steps
    evaluate_every: 20 steps
    sample_every: 20 steps
    prompts: ["the [MASK]statement and the[MASK]."]
  more:
    kind: masked_lm
    from: pretrain
    mixture: {docs: 100%}
    budget: 3 steps
    micro_batch_size: 8
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(spec, run directory) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("masked")
    spec = tiny.write(folder, SPEC)
    done = tiny.call("run", spec, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "[MASK]" in done.stdout and "sample" in done.stdout
    return spec, folder / "run"


def rows(run: Path, name: str, phase: str = "pretrain") -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / phase / f"{name}.jsonl").read_text().splitlines()]


def facts(run: Path) -> dict[str, object]:
    """All that must be equal of the first phase."""
    newest, notices = checkpoint.newest(run / "pretrain")
    assert newest is not None and not notices
    files = {
        name: (newest.folder / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR)
    }
    return {**files, **{name: rows(run, name) for name in ("metrics", "samples")}}


def test_it_learns_and_counts_what_it_hides(straight: tuple[Path, Path]) -> None:
    _, run = straight
    steps = [row for row in rows(run, "metrics") if "loss" in row]
    assert sum(row["loss"] for row in steps[-4:]) / 4 < steps[0]["loss"] - 0.8
    found = [row["validation"] for row in rows(run, "metrics") if "validation" in row]
    assert [{m["name"] for m in one} for one in found] == [{"loss", "accuracy", "perplexity", "tokens"}] * 3
    by_name = [{m["name"]: m["value"] for m in one} for one in found]
    assert by_name[-1]["loss"] < by_name[0]["loss"] and 0.05 < by_name[-1]["accuracy"] < 1
    assert len({one["tokens"] for one in by_name}) == 1, "the places of validation stay"
    (ledger,) = json.loads((run / "pretrain" / "phase.json").read_text())["ledger"]
    assert ledger["tokens_supervised"] == sum(row["tokens"] for row in steps)
    assert 0.1 < ledger["tokens_supervised"] / ledger["tokens_read"] < 0.16
    (more,) = json.loads((run / "more" / "phase.json").read_text())["ledger"]
    assert more["blocks"] == 24


def test_it_goes_on_where_it_was_killed(straight: tuple[Path, Path], tmp_path: Path) -> None:
    spec, run = straight
    out = tmp_path / "killed"
    process = subprocess.Popen(
        tiny.command("run", spec, "--out", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert kill_after(process, out, 17, 0.0)
    assert tiny.call("run", spec, "--out", out).returncode == 0
    same(facts(run), facts(out))


def test_samples_fill_what_is_masked(straight: tuple[Path, Path]) -> None:
    _, run = straight
    (_, _, last) = rows(run, "samples")
    assert last["prompt"] == "the [MASK]statement and the[MASK]." and last["finish_reason"] == "filled"
    assert last["text"].count("%") == 6 and last["text"].count("|") == 1
    *_, other = rows(run, "samples", "more")
    assert other["from"] == "validation text of docs" and other["prompt"].count("[MASK]") > 1
    assert other["text"].count("(it was ") == other["prompt"].count("[MASK]")


def test_it_fills_every_prompt_of_a_file(straight: tuple[Path, Path], tmp_path: Path) -> None:
    texts = ["the [MASK] statement", "and [MASK] of[MASK]."]
    (tmp_path / "texts.txt").write_text("\n".join(texts), "utf-8")
    asked = ["sample", str(straight[1]), "--prompts", str(tmp_path / "texts.txt")]
    found = [json.loads(line) for line in CliRunner().invoke(app, [*asked, "--top", "3", "--json"]).stdout.splitlines()]
    model = llmspec.open(straight[1])
    assert [one["text"] for one in found] == [model.fill(text).text for text in texts]
    assert [[len(place) for place in one["places"]] for one in found] == [[3], [3, 3]]
    assert found[1]["line"] == 2 and found[0]["text"] in CliRunner().invoke(app, asked).stdout
    (tmp_path / "texts.txt").write_text("\n".join([*texts, "no place", "a [MASK]" * 40]), "utf-8")
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code and "texts.txt:3" in refused.output and "texts.txt:4" in refused.output
    assert CliRunner().invoke(app, [*asked, "--n", "2"]).exit_code


def test_a_model_fills_masks(straight: tuple[Path, Path], tmp_path: Path) -> None:
    model = llmspec.open(straight[1])
    assert model.fills
    found = model.fill("The [MASK] statement[MASK] used", top=3)
    assert [len(place) for place in found.places] == [3, 3]
    for place in found.places:
        p = [candidate.probability for candidate in place]
        assert p == sorted(p, reverse=True) and 0 < sum(p) <= 1
        assert not {c.token for c in place} & set(model.codec.specials.values())
    (first, *_), (second, *_) = found.places
    assert found.text == f"The{first.text} statement{second.text} used", "a space belongs to the token behind it"
    # They are the model's logits at those places.
    specials, whole = model.codec.specials, model.logits(list(found.tokens))[0]
    assert found.tokens[0] == specials.bos, "as texts begin in training"
    places = [i for i, token in enumerate(found.tokens) if token == specials.mask]
    p = softmax(whole[places[0]])
    assert p[first.token] == pytest.approx(first.probability, rel=1e-4)
    saved = llmspec.open(model.save(tmp_path / "saved"))
    assert saved.fill("The [MASK] statement[MASK] used", top=3) == found
    assert model.fill("The <|mask|> statement<|mask|> used", top=3) == found
    for text, said in (("no mask", "no \\[MASK\\]"), ("[MASK] " + "word " * 40, "context is 32")):
        with pytest.raises(LlmspecError, match=said):
            model.fill(text)


def softmax(logits: object) -> object:
    from llmspec.decoding.chain import probabilities

    return probabilities(logits)


def test_sample_fills_and_refuses_what_would_do_nothing(straight: tuple[Path, Path]) -> None:
    _, run = straight
    shown = tiny.call("sample", run, "--prompt", "The [MASK] statement")
    assert shown.returncode == 0 and shown.stdout.count("%") == 5 and "PSF" in shown.stderr
    data = json.loads(tiny.call("sample", run, "--prompt", "[MASK][MASK]", "--top", 2, "--json").stdout)
    assert [len(place) for place in data["places"]] == [2, 2] and data["text"]
    assert {*data["places"][0][0]} == {"token", "text", "probability"}
    refused = tiny.call("sample", run, "--prompt", "[MASK]", "--n", 3, "--seed", 1)
    assert refused.returncode != 0 and "--n does nothing" in refused.stderr and "--seed does" in refused.stderr
    unmasked = tiny.call("sample", run, "--prompt", "The statement")
    assert unmasked.returncode != 0 and "no [MASK]" in unmasked.stderr


def test_explain_shows_masked_places_and_accuracy(straight: tuple[Path, Path]) -> None:
    spec, run = straight
    shown = tiny.call("explain", run)
    assert "accuracy" in shown.stdout and "masked_lm: done, 60 steps" in shown.stdout
    read = tiny.call("explain", spec)
    assert "<|mask|>→" in read.stdout.replace("\n    ", "") and "all tokens of its block" in read.stdout
    assert "5 of 32 tokens, drawn at each" in read.stdout


def test_the_same_place_hides_the_same(straight: tuple[Path, Path]) -> None:
    plan = llmspec.compile(load_spec(straight[0]).spec)
    prepared = prepare(plan)
    stream, inputs, again = prepared.stream("pretrain"), prepared.inputs("pretrain"), prepared.inputs("pretrain")
    one, two = inputs(stream.batch(5, 1), 5, 1), again(stream.batch(5, 1), 5, 1)
    assert all((one[name] == two[name]).all() for name in one)
    other = inputs(stream.batch(5, 1), 6, 1)
    assert (other["places"] != one["places"]).any(), "drawn anew where the same text comes again"
