"""Models that rewards ask, opened while another one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmspec.parts.others import StartModel
from llmspec.parts.rewards.base import Open, Opened


def opener() -> Open:
    """f(model) -> the model that a reward asks, opened once."""
    from llmspec.decoding.language_model import open_model
    from llmspec.formats.wheel_models import in_wheel

    there = dict[StartModel, Opened]()

    def open_(named: StartModel) -> Opened:
        if named not in there:
            here = in_wheel(named, offline=False) if named.model is None else Path(named.model).expanduser()
            model: Any = open_model(here)
            labels = tuple(model.labels) if model.tells_labels else ()
            there[named] = Opened(
                lambda texts: [{one.label: one.probability for one in f.labels} for f in model.classify_batch(texts)],
                labels,
            )
        return there[named]

    return open_
