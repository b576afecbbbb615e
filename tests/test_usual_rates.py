"""Learning rates that a spec leaves to the kinds of its phases: small where a model that writes changes, and told."""

from __future__ import annotations

from pathlib import Path

import phase_kinds
import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.spec import load_spec
from llmspec.training.run import resolved

USUAL = {
    "dpo": 1e-6,
    "kto": 1e-6,
    "orpo": 1e-6,
    "grpo": 1e-6,
    "ppo": 3e-6,
    "reward": 1e-4,
    "sft": 1e-3,
    "best_of_n": 1e-3,
}


def planned(folder: Path, kind: str, optimizer: str, *more: str) -> Plan:
    text, own = phase_kinds.spec_of(kind)
    text = text.replace("optimizer: {kind: adamw, lr: 1e-2}", f"optimizer: {optimizer}" if optimizer else "freeze: []")
    return compile_spec(load_spec(tiny.write(folder, text), [*own, *more]).spec)


@pytest.mark.parametrize("kind", list(USUAL))
def test_what_is_left_out_is_what_is_usual_and_is_told(tmp_path: Path, kind: str) -> None:
    adapter = "phases.phase.adapter={kind: lora, r: 2}"
    started = kind not in ("sft", "reward")
    for optimizer, sets, rate in (
        ("", (), USUAL[kind]),
        ("{kind: adam}", (), USUAL[kind]),
        *((("{weight_decay: 0.5}", (adapter,), USUAL[kind] * (10 if USUAL[kind] < 1e-3 else 1)),) if started else ()),
        ("{kind: adamw, lr: 1e-3}", (), 1e-3),
        ("{kind: lion}", (), 3e-4),
        ("{kind: muon}", (), 2e-2),
    ):
        plan = planned(tmp_path, kind, optimizer, *sets)
        phase = plan.phase("phase").phase
        assert phase.optimizer.lr == pytest.approx(rate, rel=1e-12)
        told = {decision.path: decision.value for decision in plan.decisions}
        left = "lr" not in optimizer and phase.optimizer.as_adam and USUAL[kind] < 1e-3
        assert told.get("phases.phase.optimizer.lr") == (phase.optimizer.lr if left else None)
        # What is resolved says it, and means the same.
        again = compile_spec(load_spec(tiny.write(tmp_path, resolved(plan), "resolved.yaml")).spec)
        assert again.phase("phase").phase == phase and again.phase("phase").key == plan.phase("phase").key
        assert Plan.parse(plan.model_dump_json()).phase("phase").phase == phase
