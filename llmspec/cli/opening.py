"""A run's model, opened for a person: who waits is told, and so is what the model does not know of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmspec.api import open_run


def opened(path: Path | None, phase: str | None = None, quantize: str | None = None) -> Any:
    """The model of a run, the newest where none is named; its notices are said on standard error."""
    from llmspec.render.terminal import err
    from llmspec.render.waiting import waiting

    with waiting("opening the model"):
        model = open_run(path, phase, quantize)
    for notice in model.notices:
        err().print(f"note: {notice}")
    return model


def tell_unknown(model: Any, prompt: str, system: str = "") -> None:
    """Say what the model's vocabulary does not know of a prompt."""
    from llmspec.data.unknown import of_prompt
    from llmspec.render.terminal import err

    if said := of_prompt(model.codec, system + prompt, model.plan.tokenizer.markers):
        err().print(f"note: the prompt: {said}")
