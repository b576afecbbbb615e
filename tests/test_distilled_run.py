"""Runs with a teacher, samples that count the same and noise on embeddings: what is learned, and what resumes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import tiny
from test_resume import kill_after, same

import llmspec
from llmspec.core.problems import SpecError
from llmspec.explain.beside import others_said
from llmspec.runs import checkpoint

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "red", "hen", "run"]
TEXT = "\n".join(" ".join(WORDS[(i * (j + 3) + j * j) % 12] for j in range(9)) + "." for i in range(120))

SPEC = """\
name: taught
seed: 3
device: CPU
model:
  context: 16
  d_model: 16
  layers: 1
  attention: {heads: 2}
  mlp: {d_ff: 32}
  dropout: 0.1
tokenizer: {kind: char, vocab: 40}
data:
  sources:
    text: {kind: files, path: text.txt, validation: tail 10%, max_epochs: 1000}
phases:
  teacher:
    kind: pretrain
    mixture: {text: 100%}
    budget: 40 steps
    micro_batch_size: 8
    optimizer: {kind: adamw, lr: 1e-2}
    evaluate_every: 100%
  student:
    kind: sft
    loss_reduction: sample
    neftune_noise_alpha: 5
    mixture: {text: 100%}
    budget: 30 steps
    micro_batch_size: 8
    gradient_accumulation_steps: 2
    optimizer: {kind: adamw, lr: 1e-2}
    objective: {kind: distillation, teacher: teacher, temperature: 2, teacher_share: 0.9}
    checkpoint_every: 3 steps
    evaluate_every: 10 steps
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec and its run, which nothing disturbed."""
    folder = tmp_path_factory.mktemp("taught")
    (folder / "text.txt").write_text(TEXT, "utf-8")
    done = tiny.call("run", tiny.write(folder, SPEC), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder


def rows(run: Path, phase: str = "student") -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / phase / "metrics.jsonl").read_text().splitlines()]


def facts(run: Path) -> dict[str, object]:
    newest, notices = checkpoint.newest(run / "student")
    assert newest is not None and not notices
    names = (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.CURSOR)
    return {**{name: (newest.folder / name).read_bytes() for name in names}, "rows": rows(run)}


def test_the_student_comes_nearer_to_its_teacher(straight: Path) -> None:
    steps = [row for row in rows(straight / "run") if "loss" in row]
    assert steps[-1]["divergence"] < 0.7 * steps[0]["divergence"]
    share = [0.9 * row["divergence"] + 0.1 * row["cross_entropy"] for row in steps]
    assert [row["loss"] for row in steps] == pytest.approx(share, rel=1e-5)
    held_out = [
        {m["name"]: m["value"] for m in row["validation"]} for row in rows(straight / "run") if "validation" in row
    ]
    assert held_out[-1]["loss"] < held_out[0]["loss"] and held_out[-1]["divergence"] < held_out[0]["divergence"]
    assert llmspec.open(straight / "run").logits([[1, 2, 3]]).shape == (1, 3, 40)


def test_the_teacher_is_explained(straight: Path) -> None:
    plan = llmspec.compile(llmspec.load_spec(straight / "tiny.yaml").spec)
    (said,) = others_said(plan, plan.phase("student"))
    key = plan.phase("teacher").key[:12]
    assert said.startswith(
        f"teacher: what teacher leaves, {key}, {plan.model.parameters:,} parameters; its passes are "
    )
    assert said.endswith("divergence forward, temperature 2, teacher_share 0.9") and "% of it" in said
    assert others_said(plan, plan.phase("teacher")) == ()
    told = tiny.call("explain", straight / "run")
    assert told.returncode == 0 and "teacher: what teacher leaves, " in told.stdout
    assert "temperature 2" in " ".join(told.stdout.split())


def test_it_goes_on_where_it_was_killed(straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = tiny.command("run", straight / "tiny.yaml", "--out", out)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert kill_after(process, out, 55, 0.0)
    assert tiny.call("run", straight / "tiny.yaml", "--out", out).returncode == 0
    same(facts(straight / "run"), facts(out))


FROM_FOLDER = SPEC.replace("teacher: teacher", "teacher: {model: run}").replace("  layers: 1", "  layers: 2")


def planned(folder: Path, text: str) -> llmspec.Plan:
    start = text.index("  teacher:\n    kind"), text.index("  student:\n")
    path = tiny.write(folder, text[: start[0]] + text[start[1] :], "other.yaml")
    return llmspec.compile(llmspec.load_spec(path).spec)


def test_a_model_that_is_there_teaches(straight: Path, tmp_path: Path) -> None:
    """Of another shape; it gives the memory, the operations and the key."""
    from llmspec.training.other_models import closed

    plan = planned(straight, FROM_FOLDER.replace("30 steps", "4 steps"))
    assert not plan.phase("student").others
    known = closed(plan)
    (phase,) = known.phases
    assert phase.others["teacher"].model.layers == 1 and phase.memory is not None and phase.memory.others > 0
    assert phase.flops > plan.phases[0].flops and phase.key != plan.phases[0].key
    assert len(phase.phase.objective.teacher.digest) == 64
    llmspec.run(plan, tmp_path / "run")
    assert "divergence" in rows(tmp_path / "run")[0]


WRONG = {
    "another tokenizer": (("tokenizer: {kind: char, vocab: 40}", "tokenizer: {kind: byte}"), "vocabulary of 40"),
    "learned from other text": (("vocab: 40}", "vocab: 40, special_tokens: [mask]}"), "tokenizer is not that of"),
    "a longer context": (("context: 16", "context: 32"), "rows of this phase have 32"),
    "nothing there": (("model: run}", "model: nowhere}"), "there is no model at"),
    "another digest": (("model: run}", f"model: run, digest: {'a' * 64}}}"), "not those of this digest"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_teach_is_refused_before_data_are_read(name: str, straight: Path) -> None:
    from llmspec.training.other_models import closed

    change, message = WRONG[name]
    assert change[0] in FROM_FOLDER
    plan = planned(straight, FROM_FOLDER.replace(*change))
    with pytest.raises(SpecError) as error:
        closed(plan)
    (problem,) = error.value.problems
    assert message in problem.message and problem.path[:4] == ("phases", "student", "objective", "teacher")
    assert problem.hint
