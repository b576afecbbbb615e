"""What a model's weights cost in another type: nats per token on text that it was not trained on, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmspec.core.disk import read_bytes
from llmspec.core.problems import DataError, LlmspecError
from llmspec.core.weight_types import TYPES
from llmspec.decoding.language_model import LanguageModel
from llmspec.parts.base import Frozen

TOKENS, ROW = 8192, 512
"""Tokens that are measured on, at most, and how many of them in one text: the first of each block."""
READ_ANEW = 50_000_000
"""Characters of a source that are tokenised, at most, where nobody has before."""
LARGEST = 64 << 20
"""Bytes of a file of text, at most."""
FEW_BITS = 8
"""Types of fewer bits a number are not written unmeasured: what they cost, only text tells; the others' bounds hold
for any model whose tensors come back as their types round."""
DEAR = 0.05
"""Nats per token that a file of few bits may cost."""
Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class HeldOut:
    """Text as tokens: `rows` are those that are read, and those that are to follow."""

    source: str
    """Where it is from, in words."""
    rows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Inputs of each row, and the token after each; a target of -1 does not count."""

    @property
    def tokens(self) -> int:
        """Targets that count."""
        return sum(target >= 0 for _, targets in self.rows for target in targets)


class Cost(Frozen):
    """Nats per token of one text with the weights of a run, and with those of a file."""

    text: str
    """What was measured on."""
    tokens: int
    before: float
    after: float

    @property
    def more(self) -> float:
        """Nats per token that the file costs."""
        return self.after - self.before


def found(model: LanguageModel, text: Path | None, progress: Progress) -> HeldOut | str:
    """The text of a file, or else the run's own; or why there is none, in words. Raises LlmspecError."""
    return of_run(model, progress) if text is None else of_file(model, text)


def few_bits(type: str) -> bool:
    """Whether what a type costs has to be measured before it is written."""
    return type in TYPES and TYPES[type].bits < FEW_BITS


def refused(type: str, why: str, tensors: int) -> LlmspecError:
    """What is raised where so many tensors would be rounded to few bits, and nothing can say what that costs."""
    return LlmspecError(
        f"what {type} costs cannot be measured: {why}",
        hint="--text FILE, a file of some thousand words like those that it is asked to write; or --type q8_0, "
        "which needs none",
        consequence=f"{tensors:,} tensors would be rounded to four bits, which costs some models far more "
        f"than the {DEAR:g} nats per token that a file may cost, and nothing would say so",
    )


def of_run(model: LanguageModel, progress: Progress) -> HeldOut | str:
    """The validation text of the phase whose weights a model has; or why there is none, in words."""
    from llmspec.data.prepare import prepare

    plan = model.plan
    if not any(phase.name == model.phase for phase in plan.phases):
        return "the model has no run, and so no validation text"
    objective = plan.phase(model.phase).phase.objective
    if plan.model.encoder is not None or (objective.reads_whole and not objective.sums_tokens):
        return f"{model.phase} did not learn which token follows"
    try:
        prepared = prepare(plan, offline=True, progress=progress, most=READ_ANEW)
    except DataError as error:
        return f"the run's data cannot be read: {error.problems[0].message}"
    if prepared.codec.to_json() != model.codec.to_json():
        return "the run's data make another tokenizer today"
    rows: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    names: list[str] = []
    sets = [one for one in prepared.validation(model.phase).values() if one.tokens]
    for one in sets:
        names.append(one.source)
        rows += _rows(one, TOKENS // len(sets))
    return (
        HeldOut(f"the validation text of {', '.join(names)}", tuple(rows)) if rows else "nothing is kept to validate on"
    )


def _rows(batches: Any, most: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The first rows of a validation set, of `most` tokens together."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    left = most
    for batch in batches:
        for tokens, targets, weights, filled in zip(
            batch.tokens, batch.targets, batch.weights, batch.filled, strict=True
        ):
            length = min(int(filled), ROW)
            wanted = tuple(int(t) if w else -1 for t, w in zip(targets[:length], weights[:length], strict=True))
            if any(target >= 0 for target in wanted):
                found.append((tuple(map(int, tokens[:length])), wanted))
                left -= length
            if left <= 0:
                return found
    return found


def of_file(model: LanguageModel, path: Path) -> HeldOut:
    """A file of text as the model reads it, in rows of its context. Raises LlmspecError."""
    try:
        text = read_bytes(path, LARGEST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LlmspecError(f"--text: {path} cannot be read: {error}", "a file of UTF-8 text") from None
    ids = model.tokens(text[: 16 * TOKENS], chat=False)[: TOKENS + 1]
    if len(ids) < 2:
        raise LlmspecError(f"--text: {path} has no text", "a file of some thousand words")
    length = min(ROW, model.plan.model.context)
    starts = range(0, len(ids) - 1, length)
    rows = tuple(
        (tuple(ids[at : at + length][: len(ids) - 1 - at]), tuple(ids[at + 1 : at + 1 + length])) for at in starts
    )
    return HeldOut(str(path), rows)


def nats(model: LanguageModel, held_out: HeldOut) -> float:
    """Mean of -log p(target) over the targets that count."""
    found = [surprise(model.logits(list(tokens))[0], targets) for tokens, targets in held_out.rows]
    return sum(found) / held_out.tokens


def surprise(logits: Any, targets: Sequence[int]) -> float:
    """Sum of -log p(target) of logits (T, V), over the targets that count."""
    import numpy as np

    total = 0.0
    for row, target in zip(logits, targets, strict=True):
        if target >= 0:
            wide = row.astype(np.float64)
            most = wide.max()
            total += float(most + np.log(np.exp(wide - most).sum()) - wide[target])
    return total
