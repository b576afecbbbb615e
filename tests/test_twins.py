"""Every shipped spec that trains here has a small twin that trains in seconds: the same spec, with smaller numbers.

Phases, sources, patterns of files, templates, objectives, optimizers, schedules and adapters are those of the file.
What lies in a wheel stands in tests/wheels.py. Each file in specs/ is tried: one that cannot be made small fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import wheels
from test_shipped import LARGE

import llmspec
from llmspec.data.fetch import Fetch
from llmspec.parts.others import StartModel
from llmspec.parts.phases.rollouts import RolloutPhase
from llmspec.training.callbacks import Recorder

SPECS = sorted(path.stem for path in (tiny.ROOT / "specs").glob("*.yaml") if path.stem not in LARGE)
CONTEXT, BYTES, STEPS, FEW = 48, 512, 32, 4
"""Tokens a row, those of a model whose tokenizer knows hardly more than bytes, steps of each phase, and of those
that compare answers or draw them."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stand-ins of wheels lie."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch, unpacked: Path) -> None:
    monkeypatch.setattr(Fetch, "package", lambda self, name, version, sha256: wheels.unpacked(unpacked, name))


def judging(spec: Any, folder: Path) -> list[str]:
    """Runs that rewards of a spec ask, such as that of specs/sentiment.yaml: a few steps of its twin in their place."""
    sets = []
    for name, phase in spec.phases.items():
        asked = getattr(phase.judge, "model", None) if isinstance(phase, RolloutPhase) else None
        if isinstance(asked, StartModel) and asked.model is not None:
            path = tiny.ROOT / "specs" / f"{Path(asked.model).name}.yaml"
            small = shrunk(llmspec.load_spec(path).spec)
            few = [f"phases.{one}.budget=2 steps" for one in llmspec.load_spec(path).spec.phases]
            run = llmspec.run(llmspec.compile(llmspec.load_spec(path, [*small, *few]).spec), folder / name)
            sets += [f"phases.{name}.reward.model.model={run.path}"]
    return sets


def shrunk(spec: Any) -> list[str]:
    """What makes a spec small: its network, unless a model that is there gives it, its vocabulary and its budgets."""
    sets = ["device=CPU", "decoding.max_tokens=3"]
    if any(isinstance(phase.from_, StartModel) for phase in spec.phases.values()):
        sets += [f"model.context={min(BYTES, spec.model.context)}"]
    else:
        kv_heads = ["model.attention.kv_heads=1"] if hasattr(spec.model.attention, "kv_heads") else []
        sets += ["model.d_model=16", "model.layers=1", "model.attention.heads=2", *kv_heads, "model.mlp.d_ff=32"]
        compares = any(phase.preferences for phase in spec.phases.values())  # two dialogues stand in a row
        sets += [f"model.context={3 * CONTEXT if compares else CONTEXT}"]
        if spec.tokenizer.learns and hasattr(spec.tokenizer, "vocab"):
            sets += [f"tokenizer.vocab={280 + (getattr(spec.tokenizer, 'sentinels', 0) or 0)}"]
    if spec.model.encoder is not None:
        sets += ["model.encoder.layers=1", f"model.encoder.context={CONTEXT}"]
    for name, source in spec.data.sources.items():
        sets += [f"data.sources.{name}.max_epochs=1000"]
        if source.kind == "package":
            sets += [f"data.sources.{name}.sha256={wheels.sha256(source.package)}"]
    for name, phase in spec.phases.items():
        at = f"phases.{name}"
        sets += [
            f"{at}.budget={STEPS} steps",
            f"{at}.micro_batch_size=4",
            f"{at}.gradient_accumulation_steps=1",
        ]
        sets += [f"{at}.{key}=100%" for key in ("evaluate_every", "checkpoint_every", "sample_every")]
        sets += [f"{at}.optimizer.lr=1e-2"] if phase.optimizer.kind == "adamw" else []  # for so few steps
        sets += [f"{at}.budget={FEW} steps"] if phase.preferences or phase.thumbs else []
        sets += [f"{at}.generate_metrics=4"] if hasattr(phase, "generate_metrics") else []
        if isinstance(phase, RolloutPhase):
            many = min(2, phase.answers_per_prompt)
            sets += [f"{at}.prompts_per_rollout=4", f"{at}.answers_per_prompt={many}", f"{at}.mini_batches=1"]
            sets += [f"{at}.max_tokens=12", f"{at}.epochs_per_rollout=1", f"{at}.budget={FEW} steps"]
            sets += [f"{at}.kl_ceiling=null"]  # the few weights of a twin move far in a step
            sets += [f"{at}.validation_prompts=4", f"{at}.micro_batch_size={4 * many}"]
    return sets


@pytest.mark.parametrize("name", SPECS)
def test_its_twin_trains(name: str, tmp_path: Path) -> None:
    path = tiny.ROOT / "specs" / f"{name}.yaml"
    whole = llmspec.load_spec(path).spec
    assert llmspec.compile(whole).phases, "as it is shipped it is a sound spec, too"
    small = [*shrunk(whole), *judging(whole, tmp_path)]
    plan = llmspec.compile(llmspec.load_spec(path, small).spec)
    assert [phase.name for phase in plan.phases] == list(whole.phases)
    folder = llmspec.run(plan, tmp_path / "run", watcher=Recorder())
    for phase in plan.phases:
        rows = [json.loads(row) for row in (folder.path / phase.name / "metrics.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in rows if "lr" in row]
        assert len(losses) == phase.steps and np.isfinite(losses).all()
        print(phase.name, losses)
        if isinstance(phase.phase, RolloutPhase):  # what is drawn follows the weights: its loss says nothing by itself
            assert np.isfinite([row["reward"] for row in rows if "lr" in row]).all()
            losses = [row["entropy"] for row in rows if "lr" in row]
        if phase.steps == FEW:  # too few to tell: other answers in each of them
            assert np.isfinite(losses).all() and np.std(losses) > 0
        else:
            assert np.mean(losses[-8:]) < np.mean(losses[:8])
        validated = [metric["value"] for row in rows for metric in row.get("validation", [])]
        assert validated and np.isfinite(validated).all()
