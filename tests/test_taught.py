"""What a model was trained for last goes with it: a saved one is used as that of the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny

import llmspec
from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import LlmspecError, RunError
from llmspec.data.prepare import prepare
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange.ending import own_head
from llmspec.model.device import open_device
from llmspec.model.weights import draw
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training import other_models

BESIDE = ("classify", "regress", "tag", "contrastive")
"""Kinds whose heads may stand beside one that draws text."""


def made(folder: Path, name: str, beside: bool) -> LanguageModel:
    """The model of a phase of that kind, with weights as they are drawn; `beside` a head that draws text."""
    text, sets = phase_kinds.spec_of(name)
    if beside:
        sets = (*(s for s in sets if not s.startswith("model.mask")), phase_kinds.START, "phases.phase.from=start")
    plan = compile_spec(load_spec(tiny.write(folder, text), [*sets]).spec)
    prepared = prepare(plan)
    plan = complete(plan, prepared.measured)
    open_device("CPU")
    weights = {t.name: draw(t, 1) for t in plan.phase("phase").model.tensors}
    run = RunFolder(folder)
    model = LanguageModel(plan.of("phase"), prepared.codec, weights, "phase", chat=run.chat(plan, "phase"))
    model.pairs = run.pairs(plan, "phase")
    return model


def uses(model: Any) -> dict[str, Any]:
    names = (
        "chat pairs taught tells_labels makes_vectors tells_numbers tags_words judges fills instead draws_text labels"
    )
    found = {name: getattr(model, name) for name in names.split()}
    found["text with a mask"] = model.masked("a [MASK] b") if model.codec.specials.mask is not None else None
    try:
        found["exported"] = own_head(model)
    except RunError as error:
        found["exported"] = str(error)
    return found


@pytest.mark.parametrize(
    ("name", "beside"), [*((name, False) for name in phase_kinds.KINDS), *((name, True) for name in BESIDE)]
)
def test_a_saved_model_is_used_as_that_of_the_run(name: str, beside: bool, tmp_path: Path) -> None:
    model = made(tmp_path, name, beside)
    assert model.plan.model.generates or not beside
    wanted = uses(model)
    assert wanted["taught"].makes and wanted["taught"].head in model.plan.model.heads
    again = llmspec.open(model.save(tmp_path / "saved"))
    assert uses(again) == wanted
    assert uses(llmspec.open(again.save(tmp_path / "again"))) == wanted
    assert beside is False or not again.draws_text, "it was trained for something else"


FURTHER = {
    "[no, yes]": "",
    "[yes, no]": "this phase yes, no",
    "[no, yes, other]": "this phase no, yes, other",
    "": "labels: [no, yes]",
}


@pytest.mark.parametrize("labels", FURTHER)
def test_a_head_goes_on_with_the_labels_that_it_has(labels: str, tmp_path: Path) -> None:
    """A run whose only phase classifies, as a start: other labels are told, and take over no weights of these."""
    text, sets = phase_kinds.spec_of("classify")
    shown = ["phases.phase.evaluate_every=0%", "phases.phase.sample_every=0%", "phases.phase.budget=1 steps"]
    first = [*sets, *shown, "phases.phase.labels=[no, yes]"]
    run = llmspec.run(compile_spec(load_spec(tiny.write(tmp_path, text), first).spec), tmp_path / "run").path

    def more(*changes: str) -> Any:
        listed = [f"phases.phase.labels={labels}"] if labels else []
        given = [*sets, *shown, f"phases.phase.from={{model: {run}}}", *listed, *changes]
        return compile_spec(load_spec(tiny.write(tmp_path, text), given).spec)

    if not (said := FURTHER[labels]):
        further = llmspec.run(
            more("phases.phase.optimizer={kind: adamw, lr: 1e-12, weight_decay: 0}"),
            tmp_path / "more",
        )
        one, other = (llmspec.open(path).weights() for path in (run, further.path))
        name = next(name for name in one if "head" in name and name.endswith("weight"))
        assert abs(one[name] - other[name]).max() < 1e-6, "it goes on with what was there"
        return
    with pytest.raises(LlmspecError) as refused:
        other_models.closed(more())
    (problem,) = refused.value.problems
    assert said in f"{problem.message} {problem.hint}" and problem.path == ("phases", "phase", "from", "model")
    own = "phases.phase.objective={kind: classification, head: two}"
    assert "two" in other_models.closed(more(own)).phase("phase").model.heads
