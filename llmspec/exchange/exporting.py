"""`llmspec export`: the model of a run, or one without, as a Hugging Face folder, read back at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmspec.core.metrics import Metric
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange.card import card
from llmspec.exchange.ending import ending
from llmspec.exchange.figures import FileFigures
from llmspec.exchange.read_back import Compared, read_back
from llmspec.exchange.read_labels import read_back_labels
from llmspec.formats.hf import exporting
from llmspec.formats.hf.writing import config_of
from llmspec.parts.base import Frozen


class Exported(Frozen):
    """What `export` has written, and what its readers made of it."""

    path: str
    architecture: str
    files: tuple[str, ...]
    compared: tuple[Compared, ...]
    unread: tuple[str, ...] = ()
    """Which other libraries are here and have not said what they make of it, in words."""
    left_out: tuple[str, ...] = ()
    """Heads of the model that the format has no place for beside the one that is written."""
    file: FileFigures | None = None
    """Of a GGUF file."""


def export_folder(
    model: LanguageModel,
    out: Path,
    *,
    origin: str = "",
    family: str = "",
    shard: int = exporting.SHARD,
    validated: Sequence[Metric] = (),
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
) -> Exported:
    """Writes a model into a new folder and reads it back.

    Args:
        model: opened.
        out: the folder, absent or empty.
        origin: the family that is tried first.
        family: the only family that is tried; all if ''.
        shard: bytes of a file of weights, at most.
        validated: what the last validation of its phase said, for the model card.
        progress: is told what is done.

    Raises RunError where no family has such a model, the folder cannot be written, or what is read back differs.
    """
    end = ending(model)
    plan = end.plan
    config = config_of(plan.model, origin, family)
    weights = end.weights(model.weights())
    about = card(plan, model.phase, config.architecture, model.attributions, model.pairs, validated)
    longest = getattr(model.plan.model.heads[end.own], "max_tokens", None)
    given = (out, config, plan, weights, model.codec, about)
    exporting.write(*given, pairs=model.pairs, longest=longest, shard=shard, progress=progress)
    progress("reading it back", 0, 0)
    name = config.architecture
    found = read_back_labels(model, end, out, name) if end.labelled else read_back(model, out, name)
    files = tuple(sorted(p.name for p in out.iterdir()))
    said = {"path": str(out), "architecture": name, "files": files, "left_out": end.left_out}
    return Exported.model_validate({**said, "compared": tuple(found.compared), "unread": found.unread})
