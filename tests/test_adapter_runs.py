"""Phases that train an adapter: the model stays as it is, and what is kept knows which model it belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_going_back import SHORT, Halting

import llmspec
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.compiler.sound import contradictions
from llmspec.core.problems import LlmspecError, RunError, SpecError
from llmspec.core.quantised import quantise
from llmspec.exchange import held_out, merging
from llmspec.exchange.merging import Learned, judged, merge
from llmspec.model.steps import state_shapes
from llmspec.parts.adapters import TABLE
from llmspec.runs import checkpoint, model_folder, tensors
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder
from llmspec.training.run import run
from llmspec.training.stop import Interrupted

DORA = "phases.second.adapter={kind: lora, r: 2, alpha: 8, rslora: true, dora: true}"
LORA = "phases.second.adapter={r: 2, dropout: 0.1, targets: [q_proj, mlp.*]}"
FORMS = {"lora": LORA, "dora": DORA}
EACH = ["lora", pytest.param("dora", marks=pytest.mark.nightly)]
"""Forms; what the second adds to a layer is held against peft and float64 elsewhere."""


def planned(folder: Path, *sets: str) -> Plan:
    return compile_spec(load_spec(tiny.write(folder, SHORT), sets).spec, base=str(folder))


def trained(folder: Path, *sets: str, watcher: Recorder | None = None) -> RunFolder:
    return run(planned(folder, *sets), folder / "run", watcher=watcher or Recorder(), files={"tiny.yaml": SHORT})


def newest(run: RunFolder, phase: str) -> Path:
    found, notices = checkpoint.newest(run.path / phase)
    assert found is not None and not notices
    return found.folder


class Runs(dict[str, RunFolder]):
    """Runs by form, each trained when it is first asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders

    def __missing__(self, form: str) -> RunFolder:
        self[form] = trained(self._folders.mktemp(form), FORMS[form])
        return self[form]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A finished run of each form that is asked for."""
    return Runs(tmp_path_factory)


# -- the plan ----------------------------------------------------------------------------------------------------------
def test_its_tensors_stand_beside_their_layers_and_are_trained_alone(tmp_path: Path) -> None:
    plan = planned(tmp_path, LORA)
    first, second = (p.model for p in plan.phases)
    assert first == plan.model and first.stored == first.tensors
    names = [t.name for t in second.tensors]
    added = [n for n in names if "lora" in n]
    layers = ["attention.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert added == [f"layers.0.{layer}.lora_{m}.weight" for layer in layers for m in "AB"]
    assert {t.name for t in second.trained} == set(added) == {t.name for t in second.stored}
    assert set(state_shapes(second, plan.phases[1].phase)) == {
        f"{n}:{s}" for n in added for s in ("exp_avg", "exp_avg_sq")
    }
    assert names.index(added[0]) == names.index("layers.0.attention.q_proj.weight") + 1
    assert Plan.parse(json.dumps(plan.dump())) == plan and not list(contradictions(plan))
    assert plan.phases[1].flops is not None and plan.phases[1].flops < planned(tmp_path).phases[1].flops


def test_a_phase_after_it_trains_it_on(tmp_path: Path) -> None:
    third = "phases.third={kind: sft, from: second, mixture: {facts: 100%}, budget: 4 steps}"
    plan = planned(tmp_path, LORA, third)
    assert plan.phases[2].model.adapter == plan.phases[1].model.adapter
    assert plan.phases[2].model.stored == plan.phases[1].model.stored


WRONG: dict[str, tuple[tuple[str, ...], tuple[str | int, ...], str]] = {
    "no layer": (
        ("phases.second.adapter={targets: [q_proj, atention.*]}",),
        ("second", "adapter", "targets", 1),
        r"no linear layer .* matches `atention\.\*`",
    ),
    "no model": (("phases.first.adapter={}",), ("first", "adapter"), "starts from none"),
    "nothing to train": ((LORA, "phases.second.freeze=['*lora_*']"), ("second", "freeze"), "all of the adapter"),
    "one upon another": (
        (LORA, "phases.third={kind: sft, from: second, adapter: {}, mixture: {facts: 100%}, budget: 4 steps}"),
        ("third", "adapter"),
        "has an adapter already",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_adapted_is_named(tmp_path: Path, name: str) -> None:
    sets, path, message = WRONG[name]
    with pytest.raises(SpecError, match=message) as caught:
        planned(tmp_path, *sets)
    (problem,) = caught.value.problems
    assert problem.path == ("phases", *path) and problem.hint and problem.consequence
    assert name != "no layer" or "attention.q_proj" in problem.hint


# -- runs --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", EACH)
def test_a_checkpoint_holds_the_adapter_alone(runs: dict[str, RunFolder], form: str) -> None:
    folder = runs[form]
    with open(newest(folder, "second") / checkpoint.WEIGHTS, "rb") as f:
        there = tensors.table(f)
    assert set(there) == {t.name for t in folder.plan().phase("second").model.stored}
    assert all("lora" in name for name in there)


@pytest.mark.parametrize("form", EACH)
def test_an_opened_adapter_is_the_model_with_what_it_adds(runs: dict[str, RunFolder], form: str) -> None:
    folder = runs[form]
    plan = folder.plan()
    adapter = plan.phase("second").model.adapter
    assert adapter is not None
    before, after = (llmspec.open(folder.path, phase=name) for name in ("first", "second"))
    base, whole = before.weights(), after.weights()
    assert all(whole[name].tobytes() == array.tobytes() for name, array in base.items()), "the model has not changed"
    ids = np.arange(1, 9)
    assert np.abs(before.logits(ids) - after.logits(ids)).max() > 1e-6, "it has learned something"
    merged = dict(base)
    for name in base:
        if adapter.among(name, whole):
            layer = name.removesuffix("weight")
            own = {n.removeprefix(layer): a for n, a in whole.items() if n.startswith(f"{layer}lora")}
            merged[name] = adapter.merged(base[name], own)
    place = folder.path.parent / "merged"
    if not place.exists():
        model_folder.save_model(place, plan, after.codec.to_json(), merged, phase="second", chat=True)
    assert np.abs(llmspec.open(place).logits(ids) - after.logits(ids)).max() <= 1e-4
    saved = llmspec.open(after.save(folder.path.parent / "saved"))
    assert saved.logits(ids).tobytes() == after.logits(ids).tobytes(), "a saved model needs no run"
    assert [g.text for g in after.generate("one", n=2)], "and it answers"


@pytest.mark.parametrize("form", EACH)
def test_it_resumes_bit_for_bit(runs: dict[str, RunFolder], tmp_path: Path, form: str) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, FORMS[form], watcher=Halting("second", 2))
    again = trained(tmp_path, FORMS[form])
    for name in (checkpoint.WEIGHTS, checkpoint.STATE):
        assert (newest(again, "second") / name).read_bytes() == (newest(runs[form], "second") / name).read_bytes()


@pytest.mark.nightly
def test_the_best_average_of_an_adapter_is_what_an_early_stopped_phase_leaves(tmp_path: Path) -> None:
    """Its loss is the best one that validation told, also where the phase was interrupted on its way."""
    same = (
        LORA,
        "phases.first.budget=2 steps",
        "phases.second.ema=0.5",
        "phases.second.optimizer={kind: adamw, lr: 0.02}",
        "phases.second.schedule={kind: constant}",
        "phases.second.evaluate_every=1 steps",
    )
    stopping = ("phases.second.early_stopping={patience: 1}", "phases.second.budget=12 steps")
    heard = Recorder()
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    folder = trained(tmp_path / "whole", *same, *stopping, watcher=heard)
    rows = [json.loads(line) for line in (folder.path / "second" / "metrics.jsonl").read_text().splitlines()]
    losses = {r["step"]: m["value"] for r in rows for m in r.get("validation", ()) if m.get("unit") == "nats/token"}
    best = min(losses, key=lambda step: losses[step])
    assert 1 <= best < max(losses) < 12, losses
    with pytest.raises(Interrupted):
        trained(tmp_path / "cut", *same, *stopping, watcher=Halting("second", best))
    again = trained(tmp_path / "cut", *same, *stopping)
    one, other = (found.weights(found.plan(), "second")[1] for found in (folder, again))
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in one)
    assert all(array.tobytes() == other[name].tobytes() for name, array in one.items())
    model = llmspec.open(folder.path)
    held = held_out.of_run(model, lambda what, done, total: None)
    assert not isinstance(held, str)
    assert held_out.nats(model, held) == pytest.approx(losses[best], rel=1e-6)
    assert all(abs(losses[best] - loss) > 1e-4 for step, loss in losses.items() if step != best)


def test_a_phase_that_is_taken_goes_on_with_all_weights(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    shutil.copytree(runs["lora"].path, tmp_path / "run")
    third = "phases.third={kind: sft, from: second, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 2}"
    heard = Recorder()
    trained(tmp_path, LORA, third, watcher=heard)
    assert heard.taken == ["first", "second"] and heard.phases == ["third"]
    assert "embed_tokens.weight" in llmspec.open(tmp_path / "run").weights()


# -- models of others --------------------------------------------------------------------------------------------------
OTHER = """\
phases:
  second:
    kind: sft
    from: {model: base}
    adapter: {r: 2, dora: true}
    mixture: {facts: 100%}
    budget: 3 steps
    micro_batch_size: 2
decoding: {max_tokens: 4}
"""


@pytest.fixture(scope="module")
def quantised_base(runs: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, a saved model whose matrices are q8_0, and `floats`, the same numbers as float32."""
    folder = tmp_path_factory.mktemp("quantised")
    model = llmspec.open(runs["lora"].path, phase="first")
    plan = runs["lora"].plan()
    # Rows of 32 numbers alone are whole blocks here.
    made: dict[str, Any] = dict(model.weights())
    made |= {n: quantise("q8_0", a) for n, a in made.items() if a.ndim == 2 and a.shape[1] == 32}
    assert any(not isinstance(a, np.ndarray) for a in made.values())
    floats = {n: a if isinstance(a, np.ndarray) else a.dequantised() for n, a in made.items()}
    for name, weights in (("base", made), ("floats", floats)):
        model_folder.save_model(folder / name, plan, model.codec.to_json(), weights, phase="first", chat=False)
    return folder


def of_other(folder: Path, base: str = "base") -> RunFolder:
    text = SHORT[: SHORT.index("phases:")] + OTHER.replace("base", base)
    plan = compile_spec(load_spec(tiny.write(folder, text)).spec, base=str(folder))
    return run(plan, folder / "run", watcher=Recorder(), files={"tiny.yaml": text})


def test_a_quantised_base_trains_as_its_numbers_do(quantised_base: Path, tmp_path: Path) -> None:
    made = []
    for name in ("base", "floats"):
        shutil.copytree(quantised_base, tmp_path / name)
        made.append(of_other(tmp_path / name, name))
    one, other = (newest(found, "second") / checkpoint.WEIGHTS for found in made)
    assert one.read_bytes() == other.read_bytes()
    phases = [found.plan().phase("second").phase for found in made]
    assert phases[0].from_.digest == phases[1].from_.digest, "and both know the same model"
    own, floats = (found.plan().phase("second") for found in made)
    assert floats.memory.weights == 4 * floats.model.parameters == 4 * own.model.parameters
    packed = sum(t.count for t in own.model.tensors if not t.trainable and t.shape[1:] == (32,))
    assert own.memory.weights == floats.memory.weights - packed * 4 + packed * 34 // 32, "planned as they lie"


def test_an_adapted_model_is_no_start_before_it_is_merged(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    llmspec.open(runs["lora"].path).save(tmp_path / "base")
    with pytest.raises(SpecError, match="a model with an adapter beside it"):
        of_other(tmp_path)


def test_it_is_refused_beside_another_model(quantised_base: Path, tmp_path: Path) -> None:
    shutil.copytree(quantised_base, tmp_path / "own")
    folder = of_other(tmp_path / "own")
    assert "layers.0.mlp.down_proj.weight" in llmspec.open(folder.path).weights()
    model = llmspec.open(tmp_path / "own" / "base")
    weights = model.weights()
    weights["embed_tokens.weight"] = weights["embed_tokens.weight"] + 1
    shutil.rmtree(tmp_path / "own" / "base")
    with pytest.raises(RunError, match=r"is an adapter of base, and does not fit without it: there is no model"):
        llmspec.open(folder.path)
    model_folder.save_model(
        tmp_path / "own" / "base", folder.plan(), model.codec.to_json(), weights, phase="first", chat=False
    )
    with pytest.raises(RunError, match=r"is an adapter of base, and does not fit without it: the weights .* changed"):
        llmspec.open(folder.path)


def test_every_adapter_says_what_it_owns() -> None:
    for kind in TABLE.values():
        part = kind()
        for one in part.tensors(6, 4, False):
            assert part.owns(f"layers.0.mlp.up_proj.{one.spec.name}") and not part.owns("layers.0.mlp.up_proj.weight")


# -- merging -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", EACH)
def test_a_merged_model_is_the_adapted_one(runs: dict[str, RunFolder], tmp_path: Path, form: str) -> None:
    adapted = llmspec.open(runs[form].path)
    found = merge(runs[form].path, tmp_path / "merged")
    opened = llmspec.open(tmp_path / "merged")
    ids = np.arange(1, 9)
    assert np.abs(opened.logits(ids) - adapted.logits(ids)).max() <= 1e-4 < found.changed
    assert not any("lora" in name for name in opened.weights()) and opened.chat == adapted.chat
    assert found.logits <= 1e-4 and found.layers == (4 if form == "lora" else 7)
    assert found.learned is not None and abs(found.learned.merged - found.learned.adapted) <= 1e-5
    assert found.learned.base != found.learned.adapted


def test_what_rounding_takes_is_said_and_refused(
    runs: dict[str, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows of 32 numbers; four bits take much of so little learning."""
    found = merge(runs["lora"].path, tmp_path / "eight", "q8_0")
    assert found.learned is not None and found.learned.merged != found.learned.adapted
    assert any("rows are no whole blocks of q8_0" in said for said in found.notices)
    types = model_folder.ModelFolder(tmp_path / "eight").notes.types
    assert set(types.values()) == {"q8_0"} and all("down_proj" in name for name in types)
    of = lambda merged: Learned(text="a text", tokens=9, base=3.0, adapted=2.0, merged=merged)
    assert (
        judged("q4_0", 1.0, 9.0, of(2.01)) == [] and "lose 20% of what was learned" in judged("q4_0", 1, 9, of(2.2))[0]
    )
    with pytest.raises(LlmspecError, match="lose 80% of what was learned"):
        judged("q4_0", 1.0, 9.0, of(2.8))
    monkeypatch.setattr(merging, "TOO_MUCH", -1e9)
    monkeypatch.setattr(merging, "SAID", -1e9)
    with pytest.raises(LlmspecError, match="nothing was written"):
        merge(runs["lora"].path, tmp_path / "no", "q4_0")
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_merged_is_named(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    with pytest.raises(LlmspecError, match="first has trained the model itself"):
        merge(runs["lora"].path, tmp_path / "no", phase="first")
    with pytest.raises(LlmspecError, match="cannot be merged as `q8`"):
        merge(runs["lora"].path, tmp_path / "no", "q8")
    done = tiny.call("export", runs["lora"].path, "--out", tmp_path / "no")
    assert done.returncode == 2 and "llmspec merge" in done.stderr and not (tmp_path / "no").exists()


def test_the_verb_says_what_it_has_measured(runs: dict[str, RunFolder], tmp_path: Path) -> None:
    done = tiny.call("merge", runs["lora"].path, "--out", tmp_path / "merged")
    assert done.returncode == 0 and "with its adapter" in done.stdout and "done" in done.stdout
