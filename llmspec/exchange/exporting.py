"""`llmspec export`: the model of a run, or one without, as a Hugging Face folder, read back at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmspec.compiler.plan import Plan
from llmspec.core.problems import RunError
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange.card import card
from llmspec.exchange.figures import FileFigures
from llmspec.exchange.read_back import Compared, read_back
from llmspec.formats.hf import exporting
from llmspec.formats.hf.writing import config_of
from llmspec.parts.base import Frozen


class Exported(Frozen):
    """What `export` has written, and what its readers made of it."""

    path: str
    architecture: str
    files: tuple[str, ...]
    compared: tuple[Compared, ...]
    file: FileFigures | None = None
    """Of a GGUF file."""


def export_folder(
    model: LanguageModel,
    out: Path,
    *,
    origin: str = "",
    family: str = "",
    shard: int = exporting.SHARD,
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
) -> Exported:
    """Writes a model into a new folder and reads it back.

    Args:
        model: opened.
        out: the folder, absent or empty.
        origin: the family that is tried first.
        family: the only family that is tried; all if ''.
        shard: bytes of a file of weights, at most.
        progress: is told what is done.

    Raises RunError where no family has such a model, the folder cannot be written, or what is read back differs.
    """
    plan = model.plan
    generates(plan)
    config = config_of(plan.model, origin, family)
    weights = model.weights()
    about = card(plan, model.phase, config.architecture, model.attributions, model.pairs)
    given = (out, config, plan, weights, model.codec, about)
    exporting.write(*given, pairs=model.pairs, shard=shard, progress=progress)
    progress("reading it back", 0, 0)
    found = read_back(model, out, config.architecture)
    files = tuple(sorted(p.name for p in out.iterdir()))
    return Exported(path=str(out), architecture=config.architecture, files=files, compared=tuple(found))


def generates(plan: Plan) -> None:
    """Raises RunError for a model that gives no logits of tokens."""
    if plan.model.generating_head is None:
        raise RunError(
            "the model has no head that gives logits of tokens, and only such models are exported",
            hint="another phase of the run, with --phase",
        )
