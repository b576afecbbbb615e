"""Dialogues that a run was validated with, up to their first answer: prompts, with the answers that the data have, of
compared ones the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from llmspec.core.problems import DataError, LlmspecError
from llmspec.data.packing import ranges_from
from llmspec.data.shaping import CODES
from llmspec.data.tokens import TokenSet
from llmspec.data.views import SPOKEN
from llmspec.explain.two_models import Asked

READ_ANEW = 50_000_000
"""Characters of a source that are tokenised, at most, where nobody has before."""
MOST = 128
"""Prompts that are asked, at most."""
FIELDS = ("prompt", "answer")
"""What the record of such a prompt has; of a prompt without an answer, the first alone."""
Progress = Callable[[str, float, float], None]


class HeldOut(NamedTuple):
    """Prompts of a run's validation text."""

    asked: list[Asked]
    records: list[dict[str, Any]]
    """`prompt` and `answer` of each, as the data have them."""
    origin: str


def held_out(model: Any, progress: Progress) -> HeldOut:
    """Prompts of the dialogues that are kept for validation in the sources of the phase whose weights a model has, or
    where it reads none, of any phase; evenly from all of them. Raises LlmspecError where there are none."""
    from llmspec.data.prepare import prepare

    plan, hint = model.plan, "--prompts FILE names a file of prompts: a line each, or JSON with what the reward reads"
    try:
        prepared = prepare(plan, offline=True, progress=progress, most=READ_ANEW)
    except DataError as error:
        raise LlmspecError(f"the run's data cannot be read: {error.problems[0].message}", hint) from None
    if prepared.codec.to_json() != model.codec.to_json():
        raise LlmspecError("the run's data make another tokenizer today", hint)
    sides = prepared.sides()
    sets = {source: best_of(held) for source, _, held in sides.get("preference", ())}
    sets |= {source: held for form in reversed(SPOKEN) for source, _, held in sides.get(form, ())}
    own = [s.source for s in plan.phase(model.phase).shares if s.share > 0 and s.source in sets]
    names, most = own or sorted(sets), model.plan.model.context - 1
    found = [one for name in names for one in opened(model.codec, sets[name]) if len(one[0].tokens) <= most]
    if not found:
        raise LlmspecError("the run has no dialogues that are kept for validation", hint)
    chosen = found[:: max(1, -(-len(found) // MOST))]
    kept = [name for name in names if len(sets[name].lengths)]
    return HeldOut([a for a, _ in chosen], [r for _, r in chosen], f"validation text of {', '.join(kept)}")


def best_of(data: TokenSet) -> TokenSet:
    """Of records that compare answers, the dialogues with the best one, or with one that is good."""
    assert data.texts is not None and data.ranks is not None and data.text_ends is not None
    ends, first = np.asarray(data.text_ends), np.cumsum(data.texts) - data.texts
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends
    good = first[np.asarray(data.ranks)[first] == 0]
    places = ranges_from(begins[good], (ends - begins)[good])
    return data._replace(
        tokens=data.ids(places),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum((ends - begins)[good])]),
        role_of_token=data.codes(places),
    )


def opened(codec: Any, dialogues: Any) -> Iterator[tuple[Asked, dict[str, Any]]]:
    """The dialogues of a source in which the assistant answers somebody."""
    from llmspec.training.prompts import spoken, turns

    says = CODES["assistant"]
    for i in range(len(dialogues.lengths)):
        begin, end = dialogues.offsets[i], dialogues.offsets[i + 1]
        ids, said_by = dialogues.tokens[begin:end].tolist(), dialogues.role_of_token[begin:end].tolist()
        if says not in said_by:
            continue
        first = said_by.index(says)
        length = sum(1 for _ in takewhile(lambda role: role == says, said_by[first:]))
        before = tuple(spoken(codec, ids[:first], said_by[:first]))
        right = "".join(turns(codec, ids[first : first + length], [says] * length))
        if before:
            said = {"answer": right.strip()} if right.strip() else {}  # prompts have none
            asked = before[-1][1]
            yield Asked(asked, tuple(ids[:first]), before), {"prompt": asked, **said}
