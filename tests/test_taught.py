"""What a model was trained for last goes with it: a saved one is used as that of the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny

import llmspec
from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import RunError
from llmspec.data.prepare import prepare
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange.ending import own_head
from llmspec.model.device import open_device
from llmspec.model.weights import draw
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec

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
