"""Memory: formulas agree with graphs, graphs with what a run allocates; what does not fit is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import specs

from llmspec.compiler import compile_spec
from llmspec.compiler.critic import critic_plan
from llmspec.compiler.memory import memory_model, memory_of
from llmspec.compiler.plan import Plan
from llmspec.core.problems import SpecError
from llmspec.core.units import Bytes
from llmspec.model.graph_memory import exact
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec

QUICKSTART = tiny.ROOT / "specs/quickstart.yaml"
ONE = ["phases.pretrain=null", "phases.chat.from=null", "device=CPU", "memory_limit=64 GiB", "model.layers=2"]
SHAPES = {
    "as it is": [],
    "wide": ["model.d_model=384"],
    "long": ["model.context=512", "phases.chat.micro_batch_size=2"],
    "many words": ["tokenizer.vocab=8192", "phases.chat.micro_batch_size=2"],
    "one row": ["phases.chat.micro_batch_size=1", "phases.chat.gradient_accumulation_steps=4"],
    "on a GPU": ["device=CUDA"],
    "rounded": ["device=CUDA", "precision=bfloat16"],
    "gpt-like": [
        "model.attention={kind: multi_head, heads: 6, bias: true}",
        "model.position={kind: learned}",
        "model.mlp={kind: gelu, bias: true}",
        "model.norm={kind: layernorm}",
        "model.dropout=0.1",
    ],
    "dropped everywhere": ["model.dropout={embedding: 0.1, attention: 0.1, residual: 0.1, mlp: 0.1}"],
    "dropped on a GPU": ["device=CUDA", "model.dropout={attention: 0.1, mlp: 0.1}"],
    "normed embedding": [
        "model.embedding={scale: sqrt_d_model, norm: {kind: layernorm}, token_types: 2}",
        "model.norm={kind: rmsnorm, unit_offset: true}",
        "model.residual=sandwich",
    ],
    "capped": [
        "tokenizer.vocab=4096",
        "model.heads.lm={kind: lm, softcap: 30, scale: 0.5, transform: {norm: {kind: layernorm}}}",
    ],
    "activations again": ["phases.chat.activation_checkpointing=true", "model.layers=6"],
    "capped on a GPU": ["device=CUDA", "tokenizer.vocab=4096", "model.heads.lm={kind: lm, softcap: 30}"],
}


def one(*overrides: str) -> Plan:
    """The quickstart's second phase alone, with two layers."""
    return compile_spec(load_spec(QUICKSTART, [*ONE, *overrides]).spec)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if i in (0, 4) else pytest.mark.nightly) for i, n in enumerate(SHAPES)]
)
def test_the_formulas_agree_with_the_graphs(name: str) -> None:
    plan = one(*SHAPES[name])
    memory, found = plan.phases[0].memory, exact(plan)["chat"]
    assert memory is not None
    assert memory.weights == found["weights"] and memory.optimizer == found["optimizer"]
    assert memory.sums == found["sums"]
    assert memory.batch == pytest.approx(found["tables"] + found["batch"], rel=0.02)
    assert memory.peak - memory.decoding == pytest.approx(sum(found.values()), rel=0.1)


def test_a_run_allocates_what_was_promised(tmp_path: Path) -> None:
    """The most that two phases held, as the run writes it down; the second does not keep the first one's memory."""
    text = tiny.TINY.replace("context: 16", "context: 64").replace("d_model: 16", "d_model: 64")
    path = tiny.write(tmp_path, text.replace("24 steps", "2 steps").replace("12 steps", "2 steps"))
    plan = compile_spec(load_spec(path).spec, base=str(tmp_path))
    found, peaks = exact(plan), allocated(plan, path)
    for phase in plan.phases:
        assert phase.memory is not None
        assert peaks[phase.name] == pytest.approx(sum(found[phase.name].values()) + phase.memory.decoding, rel=0.05)
        assert peaks[phase.name] == pytest.approx(phase.memory.peak, rel=0.15)


def allocated(plan: Plan, spec: Path) -> dict[str, int]:
    """Most bytes that each phase of a run held: in a process of its own, where no earlier test's memory is freed."""
    folder = spec.parent / "run"
    done = tiny.call("run", spec, "--out", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return {phase.name: RunFolder(folder).phase(phase.name).about["facts"]["held_bytes"] for phase in plan.phases}


@given(data=specs())
def test_every_item_counts_and_none_is_negative(data: dict[str, Any]) -> None:
    plan = compile_spec(Spec.model_validate_json(json.dumps(data)))
    for phase in plan.phases:
        assert phase.memory is not None
        assert all(amount > 0 for amount in phase.memory.items.values())
        assert phase.memory.peak == sum(v for _, v in phase.memory if isinstance(v, int))
        critic = critic_plan(phase)
        beside = critic.model.parameters if critic is not None else 0
        assert phase.memory.weights == 4 * (phase.model.parameters + beside)
        twice = memory_of(
            phase.model,
            phase.phase.model_copy(update={"micro_batch_size": 2 * phase.phase.micro_batch_size}),
            memory_model(plan.device, plan.precision),
            phase.others,
        )
        assert phase.memory.peak < twice.peak <= 2 * phase.memory.peak


@settings(max_examples=20)
@given(
    limit=st.integers(2_000, 12_000).map(lambda n: f"{n} MiB"),
    batch=st.sampled_from([1, 4, 6, 16]),
    device=st.sampled_from(["CPU", "CUDA"]),
)
@example(limit="3700 MiB", batch=1, device="CUDA")
def test_what_does_not_fit_is_refused_and_every_proposal_fits(limit: str, batch: int, device: str) -> None:
    path, given_ = (
        tiny.ROOT / "specs/gpt2-124m.yaml",
        [f"device={device}", f"memory_limit={limit}", f"phases.pretrain.micro_batch_size={batch}"],
    )
    allowed = Bytes.parse(limit).amount
    try:
        plan = compile_spec(load_spec(path, given_).spec)
    except SpecError as refused:
        (problem,) = refused.problems
        assert problem.path == ("phases", "pretrain", "micro_batch_size") and problem.consequence and problem.hint
        for proposal in problem.hint.split("; or "):
            fits = compile_spec(load_spec(path, [*given_, *overrides(proposal)]).spec).phases[0].memory
            assert fits is not None and fits.peak <= allowed, proposal
        return
    assert plan.phases[0].memory is not None and plan.phases[0].memory.peak <= allowed


@pytest.mark.parametrize("batch", [2, 16])
def test_proposals_count_the_models_beside_a_phase(batch: int, tmp_path: Path) -> None:
    """Where a teacher is what does not fit, nothing is proposed that fits without it alone."""
    text, own = phase_kinds.spec_of("pretrain")
    taught = f"{{kind: pretrain, mixture: {{facts: 100%}}, budget: 3 steps, micro_batch_size: {batch}, "
    taught += "objective: {kind: distillation, teacher: phase}}"
    sets = [*own, "model.d_model=64", "model.context=64", "phases.phase.micro_batch_size=1", f"phases.taught={taught}"]
    spec = tiny.write(tmp_path, text)
    free = {p.name: p.memory for p in compile_spec(load_spec(spec, sets).spec).phases}
    assert free["taught"] and free["phase"] and free["taught"].others
    asked = 0
    for limit in range(free["phase"].peak + 1, free["taught"].peak, free["taught"].others // 3):
        given_ = [*sets, f"memory_limit={limit} B"]
        with pytest.raises(SpecError) as refused:
            compile_spec(load_spec(spec, given_).spec)
        (problem,) = refused.value.problems
        for proposal in problem.hint.split("; or "):
            if "memory_limit" not in proposal:
                asked += 1
                compile_spec(load_spec(spec, [*given_, *overrides(proposal, "taught")]).spec)
    assert asked


def overrides(proposal: str, phase: str = "pretrain") -> list[str]:
    """`micro_batch_size: 1 and gradient_accumulation_steps: 4 …` as overrides."""
    own = ("micro_batch_size", "gradient_accumulation_steps", "activation_checkpointing")
    found = re.findall(rf"(model\.context|model\.layers|precision|{'|'.join(own)}): (\w+)", proposal)
    assert found, proposal
    return [f"phases.{phase}.{key}={value}" if key in own else f"{key}={value}" for key, value in found]


def test_rounded_products_are_proposed_where_a_device_has_them() -> None:
    asked = [
        "memory_limit=3700 MiB",
        "phases.pretrain.micro_batch_size=1",
        "phases.pretrain.gradient_accumulation_steps=1",
    ]
    hints = {}
    for device in ("CPU", "CUDA"):
        try:
            compile_spec(load_spec(tiny.ROOT / "specs/gpt2-124m.yaml", [*asked, f"device={device}"]).spec)
        except SpecError as refused:
            hints[device] = refused.problems[0].hint
    assert "precision: bfloat16" in hints["CUDA"] and "precision" not in hints.get("CPU", "")


def test_a_gpu_that_is_not_here_has_any_amount_of_memory() -> None:
    compile_spec(load_spec(tiny.ROOT / "specs/llama2-70b.yaml", ["device=CUDA", "memory_limit=null"]).spec)
    with pytest.raises(SpecError, match="the spec's memory_limit"):
        compile_spec(load_spec(tiny.ROOT / "specs/llama2-70b.yaml", ["device=CUDA", "memory_limit=80 GiB"]).spec)


@given(st.integers(1, 1 << 50))
def test_amounts_of_memory_print_as_they_read(amount: int) -> None:
    assert Bytes.parse(str(Bytes(amount))) == Bytes(amount)
