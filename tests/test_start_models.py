"""Phases that start from a model that is there already: `from: {model: FOLDER}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import pytest
from test_hf_folders import config, written

import llmspec
from llmspec.core.problems import LlmspecError, SpecError
from llmspec.exchange.importing import import_folder
from llmspec.explain.run import explain_run
from llmspec.formats.hf.family import families
from llmspec.formats.hf.importing import HFFolder
from llmspec.parts.tokenizers import TABLE
from llmspec.runs.run import RunFolder
from llmspec.training import other_models
from llmspec.training.start_models import closed, same_tokenizer

SPEC = """\
extends: ours/spec.yaml
name: further
data:
  sources:
    text: {{kind: files, path: text.txt, validation: tail 20%, max_epochs: 1000, license: mine}}
phases:
  more:
    kind: pretrain
    from: {start}
    mixture: {{text: 100%}}
    budget: 1 steps
    micro_batch_size: 1
    optimizer: {{kind: adamw, lr: 1e-6}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`theirs`, a folder of transformers; `ours`, imported of it; `text.txt`."""
    place = tmp_path_factory.mktemp("start")
    written(place / "theirs", config(families()["llama"]))
    import_folder(place / "theirs", place / "ours")
    (place / "text.txt").write_text("\n\n".join(f"{i}: a text, and a few words more." for i in range(60)), "utf-8")
    return place


def spec(place: Path, start: str, *overrides: str) -> Any:
    path = place / f"{abs(hash((start, overrides)))}.yaml"
    path.write_text(SPEC.format(start=start), "utf-8")
    return llmspec.compile(llmspec.load_spec(path, overrides).spec)


def test_training_starts_from_its_weights(place: Path, tmp_path: Path) -> None:
    plan = spec(place, "{model: theirs}")
    llmspec.run(plan, tmp_path / "run")
    made = llmspec.open(tmp_path / "run").weights()
    stored = HFFolder(place / "theirs")
    _, wanted, _ = stored.weights(stored.plan())
    assert all(np.abs(made[name] - array).max() <= 2e-6 for name, array in wanted.items())
    assert any((made[name] != array).any() for name, array in wanted.items())


def test_it_answers_the_prompts_of_the_run_before_any_phase(place: Path, tmp_path: Path) -> None:
    plan = spec(place, "{model: theirs}", "prompts=[a text]", "decoding.max_tokens=8")
    llmspec.run(plan, tmp_path / "run")
    (found,) = explain_run(RunFolder.open(tmp_path / "run")).answers
    (said,) = llmspec.open(place / "theirs").generate("a text", seed=plan.seed, decoding=plan.decoding)
    assert [(a.phase, a.text) for a in found.answers[:1]] == [("theirs", said.text)]
    assert [a.phase for a in found.answers] == ["theirs", "more"]


def test_a_folder_and_what_was_imported_of_it_are_one_model(place: Path) -> None:
    one, other = (closed(spec(place, f"{{model: {name}}}")) for name in ("theirs", "ours"))
    digests = [plan.phases[0].phase.from_.digest for plan in (one, other)]
    assert digests[0] == digests[1] and len(digests[0]) == 64


def test_settings_that_differ_are_told(place: Path) -> None:
    said: list[str] = []
    closed(spec(place, "{model: ours}", "model.position.theta=500000"), said.append)
    assert "position.theta" in said[0]


WRONG: dict[str, tuple[str, tuple[str, ...], str]] = {
    "nothing": ("{model: nowhere}", (), "there is no model at"),
    "no model": ("{model: text.txt}", (), "there is no model at"),
    "shapes": ("{model: theirs}", ("model.mlp.d_ff=21",), "layers.0.mlp.gate_proj.weight is [20, 24], not [21, 24]"),
    "layers": ("{model: theirs}", ("model.layers=2",), "has no place"),
    "a tokenizer of its own": ("{model: theirs}", ("tokenizer={kind: bpe, vocab: 264}",), "tokenizer is not that of"),
    "a digest": (f"{{model: theirs, digest: {'ab' * 32}}}", (), "are not those of this digest"),
    "a number": ("3", (), "phases.more.from"),
    "another key": ("{folder: theirs}", (), "phases.more.from"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_does_not_fit_is_said_before_data_are_read(what: str, place: Path) -> None:
    start, overrides, said = WRONG[what]
    with pytest.raises(SpecError) as error:
        closed(spec(place, start, *overrides))
    assert said in str(error.value), error.value


BESIDE: dict[str, tuple[str, tuple[str, ...]]] = {
    "the reference of answers": ("kind: dpo, reference: {model: theirs}", ("reference",)),
    "the reference of a policy": (
        "kind: grpo, max_tokens: 2, reward: ended, reference: {model: theirs}",
        ("reference",),
    ),
    "a critic's body": (
        "kind: ppo, max_tokens: 2, reward: ended, objective: {kind: ppo, value: {body: {model: theirs}}}",
        ("objective", "value", "body"),
    ),
    "a teacher": (
        "kind: pretrain, objective: {kind: distillation, teacher: {model: theirs}}",
        ("objective", "teacher"),
    ),
}
"""Models beside a phase: its settings, and the key that names them."""


@pytest.mark.parametrize("what", list(BESIDE))
def test_models_beside_a_phase_that_read_by_another_tokenizer_are_refused_at_their_key(what: str, place: Path) -> None:
    """Though both have as many tokens, so that shapes alone do not tell."""
    settings, path = BESIDE[what]
    settings = settings.replace("theirs", str(place / "theirs"))  # what is set starts where the command is given
    other = f"phases.other={{{settings}, from: more, mixture: {{text: 100%}}, budget: 2 steps}}"
    plan = spec(place, "null", "tokenizer={kind: bpe, vocab: 264}", other)
    with pytest.raises(SpecError) as refused:
        other_models.closed(plan)
    (problem,) = refused.value.problems
    assert problem.path == ("phases", "other", *path, "model"), problem
    assert "the spec's tokenizer is not that of" in problem.message


def test_other_ids_are_refused(place: Path, tmp_path: Path) -> None:
    plan = spec(place, "{model: theirs}")
    stored = HFFolder(place / "theirs")
    same_tokenizer(plan, stored.tokenizer(stored.plan()))
    hf_folders.write_tokenizer(tmp_path, 263)
    other = TABLE["huggingface"](file="tokenizer.json").at(str(tmp_path)).train(())
    with pytest.raises(LlmspecError, match="tokenizer is not that of theirs"):
        same_tokenizer(plan, other)
