"""Answers that a model draws while it trains: drawn side by side, given rewards, and packed into rows.

Every answer is a function of the weights and of (seed, phase, rollout, prompt, number of the answer), whatever else is
drawn beside it.

P prompts of a rollout, E answers, M tokens of an answer at most, B rows of a pass, T places of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.float32 import rounded
from llmspec.core.hashing import digest
from llmspec.core.problems import LlmspecError, Path, Problem, RunError
from llmspec.data.layout import Batch, blank
from llmspec.data.packing import pad_after
from llmspec.data.prompts import PromptLayout
from llmspec.decoding.answer import Answer, Drawing
from llmspec.decoding.batch import ROWS
from llmspec.decoding.batch import Batch as Answering
from llmspec.decoding.generate import Generation, whole_answers
from llmspec.decoding.prompts import prompt_tokens
from llmspec.model.decoder import Decoder
from llmspec.parts.phases.rollouts import RolloutPhase
from llmspec.parts.rewards.base import Answered, Open, Reward, more_than_asked
from llmspec.parts.tokenizers import Codec
from llmspec.spec.decoding import Decoding
from llmspec.training.judging import dialogue_read, judge_problems

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData

QUOTED = 60
"""Characters of a text in a sentence."""


class Refused(RunError):
    """A step that cannot be taken, before anything has changed: the run is saved, and stops."""


class Prompt(NamedTuple):
    """What is answered."""

    ids: Sequence[int]
    text: str
    """The last turn before the answer."""
    record: Mapping[str, Any]
    """Fields of its record; `answer` is the answer that it has."""
    source: str
    turns: tuple[tuple[str, str], ...] = ()
    """(role, text) of the dialogue before the answer."""


class Episodes(NamedTuple):
    """The answers of a rollout, those to one prompt after one another; arrays of the same shapes in every rollout."""

    prompts: tuple[Prompt, ...]
    tokens: np.ndarray
    """(E, M) int32; 0 behind an answer."""
    lengths: np.ndarray
    """(E,) int32 tokens of each answer, the one that ends it included."""
    ended: np.ndarray
    """(E,) bool: whether the model ended it by itself."""
    parts: Mapping[str, np.ndarray]
    """(E,) float32: rewards by what gave them."""
    rewards: np.ndarray
    """(E,) float32."""
    by_token: Mapping[str, np.ndarray]
    """(E, M) float32: what a pass over the answers gave for each of their tokens, such as `logps`."""

    @property
    def group(self) -> int:
        """Answers to each prompt."""
        return len(self.lengths) // len(self.prompts)

    @property
    def drawn(self) -> np.ndarray:
        """(E, M) bool: which tokens there are."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def prompt(self, i: int) -> Prompt:
        """What answer i answers."""
        return self.prompts[i // self.group]


# -- drawing -----------------------------------------------------------------------------------------------------------
def draw(
    decoder: Decoder,
    codec: Codec,
    prompts: Sequence[Prompt],
    decoding: Decoding,
    n: int,
    seed: tuple[object, ...],
    rows: int = ROWS,
) -> Iterator[Generation]:
    """`n` answers to each prompt, in the order of the prompts."""

    def answers() -> Iterator[Answer]:
        for i, prompt in enumerate(prompts):
            of_prompt = int(digest([str(name) for name in (*seed, i)])[:15], 16)
            how = Drawing(codec, decoding, decoder.context, of_prompt, True, False)
            for sample in range(n):
                yield Answer(how, i, sample, prompt.ids)

    longest = max(min(len(prompt.ids) + decoding.max_tokens, decoder.context) for prompt in prompts)
    batch = Answering(decoder, answers(), n * len(prompts), longest, rows, kind=decoding.kv_cache)
    events = (replace(event, row=answer.prompt * n + answer.sample) for answer, event in batch.events())
    for group in whole_answers(events, n):
        yield from group


def episodes(prompts: Sequence[Prompt], drawn: Sequence[Generation], most: int) -> Episodes:
    """Answers as arrays, without rewards."""
    tokens = np.zeros((len(drawn), most), np.int32)
    for i, answer in enumerate(drawn):
        tokens[i, : len(answer.choices)] = answer.tokens
    lengths = np.array([len(answer.choices) for answer in drawn], np.int32)
    ended = np.array([answer.ended for answer in drawn])
    return Episodes(tuple(prompts), tokens, lengths, ended, {}, np.zeros(len(drawn), np.float32), {})


# -- rewards -----------------------------------------------------------------------------------------------------------
def answered(prompt: Prompt, answer: Generation) -> Answered:
    """An answer as rewards read it."""
    return Answered(prompt.text, answer.text, answer.ended, prompt.record, more_than_asked(prompt.turns))


def judged(
    reward: Reward, answers: Sequence[Answered], open_: Open, at: Path = ("reward",)
) -> tuple[dict[str, list[float]], list[float]]:
    """(the numbers of answers by what gave them, their rewards).

    Raises Refused where one fails, or gives what is no number, at its key; that of the whole is `at`.
    """
    parts = dict[str, list[float]]()
    for name, part in reward.added().items():
        place = at if part is reward else (*at, "of", name)
        parts[name] = _scored(name, partial(part.scores, answers, open_), answers, place)
    if len(parts) == 1 and reward.added().get(reward.name) is reward:
        return parts, parts[reward.name]
    return parts, _scored(reward.name, partial(reward.total, parts), answers, at)


def _scored(name: str, scores_of: Callable[[], list[float]], answers: Sequence[Answered], place: Path) -> list[float]:
    """The numbers that a reward gives, which are to be finite, one for each answer."""
    nothing = "there is nothing to learn from without rewards"
    try:
        scores = scores_of()
    except LlmspecError as error:
        raise Refused([p if p.mark else replace(p, path=place) for p in error.problems]) from error
    except Exception as error:
        said = f"the record has no field {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        hint = "see what it reads: the prompt, the answer and the fields of the record"
        raise Refused(Problem(f"the reward `{name}` failed: {said}", place, hint, nothing)) from error
    if len(scores) != len(answers):
        said = f"the reward `{name}` gave {len(scores)} numbers for {len(answers)} answers"
        raise Refused(Problem(said, place, "one number for each answer, in their order", nothing))
    wrong = next((i for i, score in enumerate(scores) if not math.isfinite(rounded(score))), None)
    if wrong is not None:
        raise Refused(
            Problem(
                f"the reward `{name}` is {scores[wrong]} for the answer {_quoted(answers[wrong].text)} to "
                f"{_quoted(answers[wrong].prompt)}",
                place,
                "a reward has to be a finite number of float32 for every answer, an empty one included",
                "every weight would become what it is: no number",
            )
        )
    return scores


def _quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTED else text[: QUOTED - 1] + "…")


def scored(
    reward: Reward, asked: Iterable[Prompt], drawn: Sequence[Generation], open_: Open
) -> tuple[dict[str, list[float]], list[float]]:
    """The same of answers as they were drawn, each with its prompt."""
    return judged(reward, [answered(prompt, answer) for prompt, answer in zip(asked, drawn, strict=True)], open_)


# -- rows --------------------------------------------------------------------------------------------------------------
class Packed(NamedTuple):
    """Rows of answers behind their prompts, and where each answer lies in them."""

    batches: list[Batch]
    row: np.ndarray
    """(n,) of all rows of all batches."""
    begin: np.ndarray
    """(n,) the place whose target is the answer's first token."""

    def spread(self, values_EM: np.ndarray, lengths: np.ndarray, dtype: Any = np.float32) -> list[np.ndarray]:
        """(B, T) of each batch: numbers of tokens (n, M) at the places whose targets they are, 0 elsewhere."""
        rows, width = self.batches[0].tokens.shape
        found = np.zeros((len(self.batches) * rows, width), dtype)
        which, token = np.nonzero(np.arange(values_EM.shape[1]) < lengths[:, None])
        found[self.row[which], self.begin[which] + token] = values_EM[which, token]
        return list(found.reshape(len(self.batches), rows, width))

    def gathered(self, arrays: Sequence[np.ndarray], lengths: np.ndarray, most: int) -> np.ndarray:
        """(n, M) float32: the reverse of `spread`, 0 behind each answer."""
        places = np.concatenate(arrays)
        found = np.zeros((len(lengths), most), np.float32)
        which, token = np.nonzero(np.arange(most) < lengths[:, None])
        found[which, token] = places[self.row[which], self.begin[which] + token]
        return found


def places_of(longest: int, most: int) -> int:
    """Places of a row that an answer of `most` tokens takes behind the longest prompt: its last token is no input."""
    return longest + most - 1


def rows_needed(answers: int, longest: int, most: int, context: int) -> int:
    """Rows that hold so many answers, whatever their lengths."""
    return -(-answers // max(1, context // places_of(longest, most)))


def placed(needs: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """((n,) row, (n,) first place) of texts that take so many places each (n,), in rows of a width.

    The longest first, each in the first row that has room (Johnson 1973, first fit decreasing). A row is begun only
    where no other has room, so that there are never more than `rows_needed`.
    """
    rows, begins = np.zeros(len(needs), np.int64), np.zeros(len(needs), np.int64)
    filled = np.zeros(len(needs), np.int64)
    for i in np.argsort(-needs, kind="stable").tolist():
        rows[i] = row = int(np.argmax(filled + needs[i] <= width))
        begins[i] = filled[row]
        filled[row] += needs[i]
    return rows, begins


def packed(given: Episodes, which: np.ndarray, shape: tuple[int, int], end: int) -> Packed:
    """Answers `which` (n,) behind their prompts in rows of batches of a shape (B, T), one after another in as few rows
    as their lengths allow."""
    rows, width = shape
    behind = np.array([len(given.prompt(one).ids) for one in which.tolist()], np.int64)
    needs = behind + given.lengths[which] - 1
    numbers, firsts = placed(needs, width)
    batches = [blank(rows, width, end) for _ in range(int(numbers.max()) // rows + 1)]
    held = np.zeros(len(batches) * rows, np.int64)
    for i in np.argsort(firsts, kind="stable").tolist():
        one, number = int(which[i]), int(numbers[i])
        batch, row = batches[number // rows], number % rows
        ids = [*given.prompt(one).ids, *given.tokens[one, : given.lengths[one]].tolist()]
        places = slice(int(firsts[i]), int(firsts[i] + needs[i]))
        batch.tokens[row, places], batch.targets[row, places] = ids[:-1], ids[1:]
        batch.documents[row, places], batch.positions[row, places] = held[number], np.arange(len(ids) - 1)
        batch.weights[row, places.start + behind[i] - 1 : places.stop] = 1
        batch.filled[row] = places.stop
        held[number] += 1
    for i, batch in enumerate(batches):
        pad_after(batch, np.arange(rows), held[i * rows : (i + 1) * rows], batch.filled)
    return Packed(batches, numbers, firsts + behind - 1)


def too_few_rows(phase: RolloutPhase, longest: int, context: int) -> Problem | None:
    """What is wrong with the rows of a step, where they do not hold its answers."""
    count = phase.learned // phase.mini_batches
    rows = phase.micro_batch_size * phase.gradient_accumulation_steps
    needed = rows_needed(count, longest, phase.max_tokens, context)
    if needed <= rows:
        return None
    passes = phase.gradient_accumulation_steps
    return Problem(
        f"a step learns from {count:,} answers of up to {places_of(longest, phase.max_tokens):,} tokens with their "
        f"prompts, which take {needed:,} rows of {context:,}, and it has {rows:,}",
        ("micro_batch_size",),
        f"`micro_batch_size: {-(-needed // passes)}`, more `gradient_accumulation_steps` or `mini_batches`, or fewer "
        "answers",
        "some answers would be drawn and not learned from",
    )


def problems(plan: Plan, planned: PhasePlan, prepared: PreparedData) -> Iterator[Problem]:
    """What hinders a phase from drawing answers, and giving them rewards, as seen from its keys: found before step
    0."""
    phase, name, stream = planned.phase, planned.name, prepared.stream(planned.name)
    assert isinstance(phase, RolloutPhase), "it draws answers"
    layouts = {s: layout for s in stream.sources if isinstance(layout := stream.layout(s), PromptLayout)}
    longest = max(layout.longest for layout in layouts.values())
    if wrong := too_few_rows(phase, longest, plan.model.context):
        yield wrong
    asked = phase.judge.asked_tokens(
        lambda text: len(prompt_tokens(prepared.codec, prepared.template, text, True)), longest, phase.max_tokens
    )
    if asked > plan.model.context:
        yield Problem(
            f"the reward asks questions of up to {asked:,} tokens, prompts and answers included, and the model "
            f"that it asks reads {plan.model.context:,}",
            ("reward",),
            f"`model.context: {asked}`, shorter principles, a lower `max_tokens`, or a `{{model: FOLDER}}`",
            "the run would stop at the first answer that is too long for it",
        )
    held = {s: found.layout for s, found in prepared.validation(name).items()}
    for side, of_side in (("train", layouts), ("validation", held)):
        for source, layout in of_side.items():
            assert isinstance(layout, PromptLayout)
            if wrong := lacking(phase, source, prepared.records(name, source, side), layout.unanswered(prepared.codec)):
                yield wrong
    beside = {o.phase: (planned.others[o.role].model, plan.phase(o.phase).phase) for o in phase.others() if o.judges}
    made = {name: dialogue_read(model, of.objective.head) for name, (model, of) in beside.items()}
    unfit = judge_problems(phase.judge, prepared.codec, plan.base, places_of(longest, phase.max_tokens), made)
    yield from (problem.at("reward") for problem in unfit)


def lacking(phase: RolloutPhase, source: str, records: Sequence[Any], alone: Container[int]) -> Problem | None:
    """The first record of a side of a source that has not what the phase's reward reads; `alone` are those without an
    answer, which is their field `answer` where they have none of that name."""
    wanted = phase.judge.fields()
    for i, record in enumerate(records):
        missing = [f for f in wanted if record.get(f) is None and (f != "answer" or i in alone)]
        if missing:
            named = ", ".join(f"`{field}`" for field in missing)
            there = "it has " + ", ".join(f"`{field}`" for field in record) if record else "read records with it"
            if missing == ["answer"]:
                there += '; it is a prompt without an answer: `reference: "{FIELD}"` names the field of the right one'
            return Problem(
                f"the reward reads {named}, which record {i + 1} of {source} has not",
                ("reward",),
                there,
                "its answers would have no reward",
            )
    return None
