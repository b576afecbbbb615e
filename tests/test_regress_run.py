"""Numbers of texts: loss and gradients are those of the formulas, scores those of their definitions; a run learns them
and answers in their own unit; what cannot be learned so is refused, or said, before step 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import EPS, drawn_weights

import llmspec
from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.compile import complete
from llmspec.core.problems import DataError, LlmspecError, SpecError
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.spec import load_spec
from llmspec.training.number_scores import number_scores
from llmspec.training.trainer import Trainer

SPEC = """\
name: told
seed: 7
device: CPU
model:
  context: 48
  d_model: 16
  layers: 1
  position: {kind: rope}
  attention: {heads: 2}
  mlp: {kind: swiglu, d_ff: 32}
  mask: {kind: MASK}
tokenizer: {kind: byte}
data:
  sources:
    facts:
      kind: files
      path: facts.jsonl
      validation: hash 20%
      max_epochs: 50
      text: "{q}"
      label: "{a}"
phases:
  told:
    kind: regress
    mixture: {facts: 100%}
    budget: 80 steps
    micro_batch_size: 8
    max_grad_norm: null
    optimizer: {kind: adamw, lr: 2e-2}
    evaluate_every: 40 steps
    checkpoint_every: 40 steps
    sample_every: 80 steps
"""
WORDS = {"awful": 120, "poor": 240, "fair": 360, "good": 480, "superb": 600}


def written(folder: Path, *more: dict[str, Any], mask: str = "bidirectional") -> Path:
    lines = [{"q": f"it is {word} {i // 5}", "a": WORDS[word] + i % 7} for i, word in enumerate([*WORDS] * 20)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, [*lines, *more])))
    return tiny.write(folder, SPEC.replace("MASK", mask))


def test_it_learns_and_answers_in_its_own_unit(tmp_path: Path) -> None:
    done = tiny.call("run", written(tmp_path), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "Pearson" in done.stdout and "→" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "run/told/metrics.jsonl").read_text().splitlines()]
    last = {m["name"]: m["value"] for m in [row for row in rows if "validation" in row][-1]["validation"]}
    assert last["R2"] > 0.9 and last["Spearman"] > 0.8 and last["MAE"] < 60
    model = llmspec.open(tmp_path / "run")
    found = model.predict_batch(["it is awful 3", "it is superb 4"])
    assert abs(found[0].value - 123) < 90 and abs(found[1].value - 603) < 90
    assert model.predict("it is superb 4").value == pytest.approx(found[1].value, rel=1e-4)
    with pytest.raises(LlmspecError, match="numbers of texts"):
        model.generate("it is")
    said = json.loads(tiny.call("sample", tmp_path / "run", "--prompt", "it is superb 4", "--json").stdout)
    assert said["texts"][0]["value"] == pytest.approx(found[1].value, rel=1e-4)


@pytest.mark.parametrize(
    ("mask", "changes"),
    [
        ("bidirectional", ["objective={huber: 0.5}"]),
        pytest.param("causal", ["micro_batch_size=2"], marks=pytest.mark.nightly),
    ],
)
def test_loss_and_gradients_are_those_of_the_formulas(mask: str, changes: list[str], tmp_path: Path) -> None:
    sets = [f"phases.told.{change}" for change in (*changes, "optimizer={kind: sgd, lr: 1.0}")]
    plan = compile_spec(load_spec(written(tmp_path, mask=mask), sets).spec)
    prepared = prepare(plan)
    plan = complete(plan, prepared.measured)
    planned = plan.phases[0]
    head: Any = planned.model.heads["score"]
    lines = [json.loads(line) for line in (tmp_path / "facts.jsonl").read_text().splitlines()]
    number = {line["q"]: line["a"] for line in lines}
    batch, arrays = prepared.stream("told").batch(0), prepared.inputs("told")(prepared.stream("told").batch(0), 0, 0)
    weights = drawn_weights(planned.model, 2)
    trainer = Trainer(plan, planned, backend("CPU"), lambda t: weights[t.name])
    bound = planned.phase.objective.huber

    def exact(w: dict[str, np.ndarray]) -> float:
        losses = []
        for row in range(len(batch.tokens)):
            filled = int(batch.filled[row])
            numbers = batch.documents[row, :filled]
            for i in range(int(numbers[-1]) + 1):
                ids = batch.tokens[row, :filled][numbers == i]
                x = reference.row_hidden(planned.model, w, ids)
                one = x.mean(0) if mask == "bidirectional" else x[-1]
                true = (number[prepared.codec.decode(ids.tolist())] - head.mean) / head.std
                error = float(reference.linear(w, "score_head", one)[0]) - true
                losses.append(
                    error**2
                    if bound is None
                    else error**2 / 2
                    if abs(error) <= bound
                    else bound * (abs(error) - bound / 2)
                )
        return float(np.mean(losses))

    wide = reference.double(weights)
    loss = exact(wide)
    taken = trainer.step([arrays], planned.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.sums == {"loss": pytest.approx(loss, rel=400 * EPS)}
    gradients = {n: wide[n] - w.astype(np.float64) for n, w in trainer.weight_arrays().items()}
    way = {n: np.random.default_rng([1, i]).standard_normal(w.shape) for i, (n, w) in enumerate(wide.items())}
    ahead, back = (exact({n: w + s * 1e-5 * way[n] for n, w in wide.items()}) for s in (1, -1))
    slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
    size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert slope == pytest.approx((ahead - back) / 2e-5, abs=2e-4 * size)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-4, 9)), min_size=2, max_size=20))
@settings(deadline=None, max_examples=40)
def test_scores_are_those_of_their_definitions(drawn: list[tuple[int, int]]) -> None:
    said, true = (np.array(column, np.float64) for column in zip(*drawn, strict=True))
    value = {m.name: m.value for m in number_scores(said, true)}
    assert value["MSE"] == pytest.approx(np.mean([(a - b) ** 2 for a, b in drawn]))
    assert value["MAE"] == pytest.approx(np.mean([abs(a - b) for a, b in drawn]))

    def rank(column: np.ndarray) -> np.ndarray:
        return np.array([(column < x).sum() + ((column == x).sum() + 1) / 2 for x in column])

    if said.std() and true.std():
        assert value["R2"] == pytest.approx(1 - value["MSE"] / true.var())
        assert value["Pearson"] == pytest.approx(np.corrcoef(said, true)[0, 1])
        assert value["Spearman"] == pytest.approx(np.corrcoef(rank(said), rank(true))[0, 1])
    else:
        assert value["Pearson"] == value["Spearman"] == 0


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        ("data.sources.facts.label=null", ("data", "sources", "facts"), "no `label:`"),
        ("phases.told.mean=3", ("phases", "told"), "belong together"),
        ("phases.told.std=0", ("phases", "told", "std"), ""),
        ("phases.told.objective={head: lm}", ("phases", "told", "objective", "head"), "every token"),
        ("phases.told.heads={score: {kind: embedding}}", ("phases", "told", "objective"), "gives no number"),
        ("phases.told.objective={huber: 0}", ("phases", "told", "objective", "huber"), ""),
    ],
)
def test_what_cannot_be_trained_so_is_refused(change: str, path: tuple[Any, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        compile_spec(load_spec(written(tmp_path), [change]).spec)
    found = [p for p in refused.value.problems if p.path[: len(path)] == path]
    assert any(said in p.message for p in found), refused.value.problems


def test_labels_that_are_no_numbers_are_counted_named_and_refused(tmp_path: Path) -> None:
    odd = [{"q": f"word {i}", "a": word} for i, word in enumerate(["many", "nan", "1e999"])]
    prepared = prepare(compile_spec(load_spec(written(tmp_path, *odd)).spec))
    told = " ".join(notices(prepared))
    assert "whose label is no number: `many`" in told or "whose label is no number: `nan`" in told
    assert "no `mean:` and `std:`" in told
    counts = [x["a"] for x in map(json.loads, (tmp_path / "facts.jsonl").read_text().splitlines()[:100])]
    mean, std = prepared.measured.spreads["told"]
    assert mean == pytest.approx(np.mean(counts), rel=0.1) and std == pytest.approx(np.std(counts), rel=0.1)
    many = [{"q": f"word {i}", "a": "x"} for i in range(30)]
    with pytest.raises(DataError, match="whose label is no number"):
        prepare(compile_spec(load_spec(written(tmp_path, *many)).spec))
    with pytest.raises(DataError, match="no label of the training documents is a number"):
        prepare(compile_spec(load_spec(written(tmp_path), ['data.sources.facts.label="{q}"']).spec))
    spec = written(tmp_path)
    (tmp_path / "facts.jsonl").write_text("\n".join(json.dumps({"q": f"number {i}", "a": 3}) for i in range(40)))
    with pytest.raises(DataError, match="the label of every training document is 3"):
        prepare(compile_spec(load_spec(spec).spec))
