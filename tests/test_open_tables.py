"""A part of every kind from outside the package goes the whole way: load, check, explain, run, resume, sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_parts
import pytest
import tiny

from llmspec.compiler import Plan, compile_spec
from llmspec.core.problems import SpecError
from llmspec.parts import mlps
from llmspec.runs import checkpoint
from llmspec.spec import load_spec
from llmspec.spec.json_schema import json_schema

SPEC = """\
name: foreign
seed: 5
device: CPU
model:
  context: 16
  d_model: 16
  layers: 1
  embedding: {kind: loud}
  position: {kind: parity}
  mask: {kind: far, window: 5}
  heads: {lm: {kind: biased}}
  attention: {kind: quiet, heads: 2, loudness: 0.75}
  mlp: {kind: square, d_ff: 32}
  norm: {kind: max}
  init: {kind: tiny}
tokenizer: {kind: backwards}
chat_template: {kind: shouted}
data:
  sources:
    numbers: {kind: counting, until: 200, validation: tail 10%}
    facts:
      kind: inline
      max_epochs: 500
      records: [{q: one, a: uno}, {q: two, a: dos}, {q: three, a: tres}, {q: four, a: cuatro}]
      dialogue: {user: "{q}", assistant: "{a}"}
phases:
  practice:
    kind: practice
    mixture: {numbers: 100%}
    budget: 8 steps
    micro_batch_size: 2
    optimizer: {kind: sign, lr: 1e-3}
    schedule: {kind: stairs}
    objective: {kind: doubled}
    evaluate_every: 4 steps
    checkpoint_every: 2 steps
  chat:
    kind: sft
    from: practice
    adapter: {kind: offset}
    mixture: {facts: 100%}
    budget: 2 steps
    micro_batch_size: 2
    prompts: [one]
decoding: {lowest_id: 20, max_tokens: 6}
"""
CODE = """\
import fake_parts, sys
fake_parts.register()
if sys.argv[1] == "run": fake_parts.register_task()
if at := [a for a in sys.argv if a.startswith("--kill-after=")]:
    sys.argv.remove(at[0])
    from llmspec.training.tasks import TASKS
    class Killed(TASKS["practice"]):
        def step_taken(self, step, taken):
            if step == int(at[0].partition("=")[2]):
                import os; os._exit(9)
            return super().step_taken(step, taken)
    TASKS["practice"] = Killed
from llmspec.cli import main
main()
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")])}
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=600)


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec and a run of it that nothing disturbed."""
    made = tmp_path_factory.mktemp("foreign")
    (made / "foreign.yaml").write_text(SPEC)
    done = call(made, "run", "foreign.yaml", "--out", "run")
    assert done.returncode == 0, done.stderr
    return made


def test_every_kind_has_a_part_from_outside() -> None:
    kinds = {path.parent.name for path in (tiny.ROOT / "llmspec" / "parts").glob("*/__init__.py")}
    assert kinds == {package.__name__.rpartition(".")[2] for package, _ in fake_parts.ENTRIES}


def test_they_are_loaded_checked_and_explained(folder: Path) -> None:
    found = answer(call(folder, "check", "foreign.yaml", "--graph", "--json"))
    assert found["ok"] and {check["holds"] for check in found["checks"]} <= {True, None}
    wrong = call(folder, "check", "foreign.yaml", "--set", "model.attention.loudness=0")
    assert wrong.returncode == 2 and "loudness: factor on what the heads say" in wrong.stderr
    report = call(folder, "explain", "foreign.yaml")
    assert report.returncode == 0
    assert all(
        kind in report.stdout
        for kind in ("parity", "far, window of 5", "square", "max", "biased", "counting", "practice", "lowest_id")
    )
    part = answer(call(folder, "explain", "foreign.yaml", "--part", "model.position", "--json"))
    assert part["formula"] == "x + table[p mod 2]" and part["papers"] == ["Nobody 2026"]


def test_a_run_of_them_is_explained_and_sampled(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "run" / "practice" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] > 0
    assert answer(call(folder, "explain", "run", "--json"))["phases"][0]["state"] == "done"
    said = answer(call(folder, "sample", "run", "--prompt", "one", "--seed", "3", "--json"))
    assert said["answers"][0]["tokens"] and min(said["answers"][0]["tokens"]) >= 20
    (folder / "asked.txt").write_text("one\ntwo\n")
    at = ("--prompts", "asked.txt", "--by", "vowels", "--n", "3", "--out", "ranked.jsonl")
    ranked = answer(call(folder, "rank", "run", *at, "--set", "decoding.temperature=1", "--json"))
    assert ranked["prompts"] == 2 and [*ranked["parts"]] == ["vowels"] and (folder / "ranked.jsonl").is_file()


def test_they_resume_bit_for_bit(folder: Path) -> None:
    killed = call(folder, "run", "foreign.yaml", "--out", "killed", "--kill-after=4")
    assert killed.returncode == 9, killed.stderr
    assert call(folder, "run", "foreign.yaml", "--out", "killed").returncode == 0
    for phase in ("practice", "chat"):
        straight, resumed = newest(folder / "run" / phase), newest(folder / "killed" / phase)
        for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR):
            assert (straight / name).read_bytes() == (resumed / name).read_bytes()
    assert '"practised": 8' in (newest(folder / "killed" / "practice") / checkpoint.CURSOR).read_text()


def newest(phase: Path) -> Path:
    found, notices = checkpoint.newest(phase)
    assert found is not None and not notices
    return found.folder


def test_a_part_may_come_after_the_first_spec_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = tiny.write(tmp_path, tiny.TINY.replace("kind: swiglu", "kind: square"))
    with pytest.raises(SpecError, match="square"):
        load_spec(spec)
    monkeypatch.setitem(mlps.TABLE, "square", fake_parts.Square)
    plan = compile_spec(load_spec(spec).spec)
    assert isinstance(plan.model.stacks[0].blocks[0].mlp, fake_parts.Square)
    assert Plan.parse(json.dumps(plan.dump())) == plan
    assert "square" in json.dumps(json_schema())
