"""Phases that add heads and freeze tensors: what is frozen keeps its bits and costs nothing, the rest trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import tiny
from networks import NETWORKS
from test_going_back import SHORT, Halting

from llmspec.compiler import compile_spec, walk
from llmspec.compiler.cost import step_cost
from llmspec.compiler.phase_model import phase_model, phase_models
from llmspec.compiler.plan import Plan
from llmspec.compiler.sound import contradictions
from llmspec.core.problems import RunError, SpecError, either
from llmspec.decoding.language_model import open_model
from llmspec.model.graph_memory import exact
from llmspec.model.steps import state_shapes
from llmspec.model.weights import draw
from llmspec.parts.phases import TABLE, Phase
from llmspec.runs import checkpoint
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.artifacts import start_weights
from llmspec.training.callbacks import Recorder
from llmspec.training.run import run

FROZEN = "phases.second.freeze=['embed_tokens.*', 'layers.[0-3].*']"
CHAIN = (
    "model.layers=6",
    "phases.second.heads={other: {kind: lm, tied: false}}",
    "phases.second.objective={kind: cross_entropy, head: other}",
    "phases.second.checkpoint_every=1 steps",
    "phases.second.prompts=[]",
    FROZEN,
)
QUICKSTART = tiny.ROOT / "specs/quickstart.yaml"
ALONE = ("phases.pretrain=null", "phases.chat.from=null", "device=CPU")


def planned(folder: Path, *sets: str) -> Plan:
    return compile_spec(load_spec(tiny.write(folder, SHORT), sets).spec)


def trained(folder: Path, *sets: str, watcher: Recorder | None = None) -> RunFolder:
    plan = planned(folder, *sets)
    return run(plan, folder / "run", watcher=watcher or Recorder(), files={"tiny.yaml": SHORT})


def newest(run: RunFolder, phase: str) -> checkpoint.Checkpoint:
    found, notices = checkpoint.newest(run.path / phase)
    assert found is not None and not notices
    return found


def weights(run: RunFolder, phase: str) -> dict[str, Any]:
    return newest(run, phase).weights({t.name: t.shape for t in run.plan().phase(phase).model.tensors})


# -- the plan ----------------------------------------------------------------------------------------------------------
WRONG: dict[str, tuple[tuple[str, ...], tuple[str | int, ...], str]] = {
    "a pattern of nothing": (("phases.second.freeze=['layer.*']",), ("freeze", 0), r"no tensor .* matches `layer\.\*`"),
    "everything": (("phases.second.freeze=['*']",), ("freeze",), "all tensors that the head `lm` reads are frozen"),
    "a head that is there": (
        ("phases.second.heads={lm: {kind: lm}}",),
        ("heads", "lm"),
        "has a head `lm` already",
    ),
    "prompts that nothing answers": ((*CHAIN[:3], FROZEN), ("prompts",), "no text can be drawn"),
    "a head that is not there": (
        ("phases.second.objective={head: others}", *CHAIN[:2]),
        ("objective", "head"),
        "no head",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_frozen_or_added_is_named(tmp_path: Path, name: str) -> None:
    sets, path, message = WRONG[name]
    with pytest.raises(SpecError, match=message) as caught:
        planned(tmp_path, *sets)
    (problem,) = caught.value.problems
    assert problem.path == ("phases", "second", *path) and problem.hint and problem.consequence


def test_all_patterns_of_nothing_are_named_at_once(tmp_path: Path) -> None:
    keys = {"freeze": "['layer.*']", "lr_multipliers": "{emb_tokens.*: 0.5}", "unfreeze": "{final_nrm.*: 20%}"}
    with pytest.raises(SpecError) as caught:
        planned(tmp_path, *(f"phases.second.{key}={value}" for key, value in keys.items()))
    assert [p.path[2] for p in caught.value.problems] == list(keys)


def test_the_hint_names_what_comes_near(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        planned(tmp_path, "phases.second.freeze=['layers.0.atention.*', 'emb*']")
    (problem,) = caught.value.problems
    assert "layers.*.attention." in problem.hint and problem.path[-1] == 0


def test_a_phase_has_the_heads_before_it_and_freezes_for_itself(tmp_path: Path) -> None:
    plan = planned(tmp_path, *CHAIN, "phases.third={kind: sft, from: second, mixture: {facts: 100%}, budget: 4 steps}")
    first, second, third = (p.model for p in plan.phases)
    assert list(first.heads) == ["lm"] and list(second.heads) == list(third.heads) == ["lm", "other"]
    assert first == plan.model and first.trained_parameters == first.parameters
    added = {t.name for t in second.tensors} - {t.name for t in first.tensors}
    assert added == {"other_head.weight"}
    assert {t.name for t in second.trained} == {
        t.name for t in second.tensors if not t.name.startswith(("embed_tokens.", *(f"layers.{i}." for i in range(4))))
    }
    assert {t.name for t in third.tensors} - {t.name for t in third.trained} == {"other_head.weight"}, "it trains `lm`"
    assert [p.makes for p in plan.phases] == ["policy", "model", "policy"]
    assert Plan.parse(json.dumps(plan.dump())) == plan and not list(contradictions(plan))
    keys = [p.key for p in plan.phases]
    thawed = planned(tmp_path, *CHAIN[:-1]).phases
    assert thawed[0].key == keys[0] and thawed[1].key != keys[1]


def test_a_plan_that_forges_what_is_trained_is_refused(tmp_path: Path) -> None:
    plan = planned(tmp_path, *CHAIN)
    data = plan.dump()
    data["phases"][1]["model"]["tensors"][0]["trainable"] = True
    assert any("the model of second" in wrong for wrong in contradictions(Plan.parse(json.dumps(data))))


def test_a_phase_starts_only_from_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TABLE["sft"], "takes", ("policy",))
    third = "phases.third={kind: sft, from: second, mixture: {facts: 100%}, budget: 4 steps}"
    with pytest.raises(SpecError, match="starts from a policy, and second makes a model") as caught:
        planned(tmp_path, *CHAIN, third)
    assert caught.value.problems[0].path == ("phases", "third", "from")
    assert either(["policy", "embedder", "reward_model"]) == "a policy, an embedder or a reward model"
    assert Phase.takes == ("policy", "filler", "classifier", "embedder", "regressor", "tagger", "model")


# -- what it costs -----------------------------------------------------------------------------------------------------
CASES = {
    "the lower half": ("phases.chat.freeze=['embed_tokens.*', 'layers.[0-1].*']",),
    "all but a new head": (
        "phases.chat.heads={other: {kind: lm, tied: false}}",
        "phases.chat.objective={head: other}",
        "phases.chat.prompts=[]",
        "phases.chat.freeze=['embed_tokens.*', 'layers.*', 'final_norm.*']",
    ),
    "the middle, in two passes": (
        "phases.chat.freeze=['layers.[1-2].*']",
        "phases.chat.gradient_accumulation_steps=2",
    ),
}


@pytest.mark.parametrize(
    "name", [n if not i else pytest.param(n, marks=pytest.mark.nightly) for i, n in enumerate(CASES)]
)
def test_memory_is_that_of_the_graphs(name: str) -> None:
    plan = compile_spec(load_spec(QUICKSTART, [*ALONE, *CASES[name]]).spec)
    whole = compile_spec(load_spec(QUICKSTART, ALONE).spec).phases[0].memory
    memory, found = plan.phases[0].memory, exact(plan)["chat"]
    assert memory is not None and whole is not None
    assert (memory.weights, memory.optimizer, memory.sums) == (found["weights"], found["optimizer"], found["sums"])
    assert memory.peak - memory.decoding == pytest.approx(sum(found.values()), rel=0.1)
    assert memory.optimizer < whole.optimizer and memory.peak - memory.sums < whole.peak


@pytest.mark.parametrize(
    "name", [n if i == 1 else pytest.param(n, marks=pytest.mark.nightly) for i, n in enumerate(CASES)]
)
def test_operations_are_those_of_the_graphs(name: str) -> None:
    small = ("model.context=64", "model.layers=2", "phases.chat.micro_batch_size=4")
    plan = compile_spec(load_spec(QUICKSTART, [*ALONE, *small, *CASES[name]]).spec)
    (phase,) = plan.phases
    found = exact(plan, operations=True)["chat"]
    assert step_cost(phase.model, phase.phase).total == pytest.approx(found["step operations"], rel=0.1)


@pytest.mark.parametrize("name", NETWORKS)
def test_backward_is_twice_forward_where_all_is_trained(name: str) -> None:
    model = NETWORKS[name].model
    assert walk.backward_flops(model) == pytest.approx(2 * walk.forward_flops(model), rel=1e-12)
    assert walk.reached_layers(model) == set(range(model.layers))


@pytest.mark.parametrize("name", list(NETWORKS)[::8])
def test_gradients_are_those_of_nothing_frozen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the whole network are held against float64 in tests/properties/test_model.py."""
    plan = NETWORKS[name]
    shape, weights = (networks.ROWS, networks.CONTEXT), networks.drawn_weights(plan.model, 3)
    batch = {
        "tokens": networks.drawn_tokens(3),
        "targets": networks.drawn_tokens(4),
        "documents": np.zeros(shape, np.int32),
        "loss_weights": np.full(shape, 1 / np.prod(shape), np.float32),
    }
    loss, whole = networks.gradients(name, weights, batch)
    phase = plan.phases[0].phase.model_copy(update={"freeze": ("embed_tokens.*", "layers.0.*")})
    model, _ = phase_model(plan.model, phase)
    planned_ = plan.phases[0].model_copy(update={"phase": phase, "model": model})
    frozen = plan.model_copy(update={"model": model, "phases": (planned_,)})
    monkeypatch.setitem(NETWORKS, f"{name}, frozen", frozen)
    found_loss, found = networks.gradients(f"{name}, frozen", weights, batch, only={t.name for t in model.trained})
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert set(found) == {t.name for t in model.trained} < set(whole)
    assert all(networks.apart(found[n], whole[n]) < 1e-5 for n in found)
    assert any(np.abs(whole[n]).max() > 0 for n in found)


# -- training ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose second phase adds a head, freezes the first four layers, and trains on."""
    return trained(tmp_path_factory.mktemp("chain"), *CHAIN)


def test_what_is_frozen_keeps_its_bits_and_the_rest_is_trained(chain: RunFolder) -> None:
    plan = chain.plan()
    second = plan.phase("second")
    before, after = weights(chain, "first"), weights(chain, "second")
    start = start_weights(second.model, plan.seed, None)
    for tensor in second.model.tensors:
        same = np.array_equal(after[tensor.name], before.get(tensor.name, start[tensor.name]))
        assert same != tensor.trainable, tensor.name
    assert np.array_equal(start["other_head.weight"], draw(second.model.tensors[-1], plan.seed))
    state = newest(chain, "second").state(state_shapes(second.model, second.phase))
    assert {name.split(":")[0] for name in state} == {t.name for t in second.model.trained}
    held = chain.phase("second").about["facts"]["held_bytes"]
    assert second.memory is not None and held == pytest.approx(second.memory.peak, rel=0.15)


def test_it_resumes_bit_for_bit(chain: RunFolder, tmp_path: Path) -> None:
    from llmspec.training.stop import Interrupted

    for stop in (("first", 3), ("second", 2)):
        with pytest.raises(Interrupted):
            trained(tmp_path, *CHAIN, watcher=Halting(*stop))
    again = trained(tmp_path, *CHAIN)
    for phase in ("first", "second"):
        ours, theirs = newest(chain, phase), newest(again, phase)
        for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR):
            assert (ours.folder / name).read_bytes() == (theirs.folder / name).read_bytes(), (phase, name)
        for name in ("metrics.jsonl", "samples.jsonl"):
            ours_, theirs_ = ((r.path / phase / name).read_bytes() for r in (chain, again))
            assert ours_ == theirs_, (phase, name)


@pytest.mark.nightly
def test_the_norm_is_that_of_what_is_trained(tmp_path: Path) -> None:
    """Frozen tensors take no part in clipping: the norm before it is that of the others' gradients alone."""
    norms = {}
    for name, sets in {
        "whole": (),
        "frozen": (FROZEN,),
        "rest": ("phases.second.freeze=['layers.[4-5].*', 'final*']",),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        heard = Recorder()
        trained(folder, "model.layers=6", "model.dropout=0", "phases.second.budget=1 steps", *sets, watcher=heard)
        norms[name] = heard.steps[-1].norm
    # The two sets of patterns divide the tensors between them.
    assert norms["whole"] ** 2 == pytest.approx(norms["frozen"] ** 2 + norms["rest"] ** 2, rel=1e-4)
    assert 0 < norms["frozen"] < norms["whole"]


def test_sample_opens_what_draws_text(chain: RunFolder) -> None:
    assert open_model(chain.path).phase == "first"
    with pytest.raises(RunError, match="second makes a model: no text can be drawn"):
        open_model(chain.path, phase="second")


def test_models_of_phases_are_a_function_of_the_plan() -> None:
    for plan in NETWORKS.values():
        phases = {p.name: p.phase for p in plan.phases}
        assert phase_models(plan.model, phases, tuple(phases)) == ({p.name: p.model for p in plan.phases}, [])
