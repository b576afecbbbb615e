"""Records as answers to one prompt, some of which are better than others; or why they are none.

A good or bad answer by itself is one answer of rank 0 or 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from llmspec.data.formats import lists_messages
from llmspec.data.shaping import EMPTY, FORMAT, UNREADABLE, Dropped, Unfit, content_of, fill, messages_of
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.base import patterns
from llmspec.parts.sources.preferences import rejected_templates
from llmspec.parts.templates.base import Marker, Pieces, Turn

REVISION = 4
"""Changes when records are compared in another way, so that old token files are not used."""
EQUAL, TIED = "whose answers are equal", "whose answers are all tied"
ONE_SIDED = "with one answer alone"
ASSISTANT_FIRST = "that start with the assistant"
PROMPTS_DIFFER = "whose answers are to different prompts"
UNSCORED = "without a score of every answer"
UNJUDGED = "neither good nor bad"
UNMEASURED = "whose margin is no number"
"""Reasons for which a record is not compared."""
BAD = "that are bad answers"
"""Reason for which a record is no dialogue to learn from."""
GOOD_WORDS = {"true": True, "yes": True, "good": True, "1": True, "1.0": True, "+1": True, "up": True, "👍": True}
BAD_WORDS = {"false": False, "no": False, "bad": False, "0": False, "0.0": False, "-1": False, "down": False}
"""What says that an answer is good, and that it is bad."""
JUDGED = {**GOOD_WORDS, **BAD_WORDS, "👎": False}


class Compared(NamedTuple):
    """Answers to one prompt, the best ones first."""

    prompt: tuple[Turn, ...]
    """The dialogue before them."""
    answers: tuple[Pieces, ...]
    ranks: tuple[int, ...]
    """Of each: 0 for the best, equal for answers none of which is better; of a judged answer, 0 good, 1 bad."""
    margin: float = 0.0
    """By how much the best is better, where the record says so."""

    @property
    def dialogues(self) -> list[list[Turn]]:
        """The prompt with each answer."""
        return [[*self.prompt, Turn("assistant", answer)] for answer in self.answers]


class Preferences(NamedTuple):
    """A kind of record that compares answers, recognised by its fields."""

    name: str
    fits: Callable[[Mapping[str, Any]], bool]
    reads: tuple[str, ...]
    """Fields that it is made of, as far as a record has them."""
    compare: Callable[[Mapping[str, Any]], Compared]
    several: bool = True
    """Whether a record has several answers; otherwise one that is judged by itself."""


def comparison_of(source: Source, document: Document, markers: Sequence[str] = ()) -> Compared | Dropped | None:
    """The answers that a document compares, or why it compares none; None where nothing says that it does."""
    record, told = document.record, source.comparison
    try:
        if told:
            if record is None:
                raise Unfit(FORMAT, "plain text, without fields")
            return checked(_told(source, record, markers), source.rejected_from is None and source.good is None)
        if record is None or source.shaped or (form := recognised_preference(record)) is None:
            return None
        return checked(form.compare(record), form.several)
    except Unfit as unfit:
        return unfit.dropped


def checked(found: Compared, several: bool) -> Compared:
    """The answers, the best first, each once; raises Unfit where they compare nothing and are to be `several`.
    Answers that differ in the white space around them are equal: a template may leave it out."""
    if not found.prompt:
        raise Unfit(EMPTY, "no prompt")
    if first := next((t.role for t in found.prompt if t.role in ("user", "assistant")), None):
        if first == "assistant":
            raise Unfit(ASSISTANT_FIRST)
    else:
        raise Unfit(EMPTY, "no turn of user in the prompt")
    if not all(turn.content for turn in found.prompt if turn.role in ("user", "assistant")):
        raise Unfit(EMPTY, "a turn of the prompt")
    if not all("".join(answer).strip() for answer in found.answers):
        raise Unfit(EMPTY, "an answer")
    found = found._replace(prompt=tuple(turn for turn in found.prompt if turn.content))
    if not several:
        return found
    order = sorted(range(len(found.answers)), key=lambda i: found.ranks[i])
    kept = list({"".join(found.answers[i]).strip(): i for i in reversed(order)}.values())[::-1]
    if len(found.answers) < 2:
        raise Unfit(ONE_SIDED)
    if len(kept) < 2:
        raise Unfit(EQUAL)
    if len({found.ranks[i] for i in kept}) < 2:
        raise Unfit(TIED)
    kept.sort(key=lambda i: found.ranks[i])
    steps = sorted({found.ranks[i] for i in kept})
    return found._replace(
        answers=tuple(found.answers[i] for i in kept), ranks=tuple(steps.index(found.ranks[i]) for i in kept)
    )


# -- what the spec says --------------------------------------------------------------------------------------------
def _told(source: Source, record: Mapping[str, Any], markers: Sequence[str]) -> Compared:
    prompt: tuple[Turn, ...]
    if source.prompt is not None:
        prompt = (Turn("user", fill(source.prompt, record, markers)),)
    else:
        assert source.messages is not None, "one of both is there"
        prompt = tuple(messages_of(record.get(source.messages), source.messages))
    if source.completion is not None:
        assert source.good is not None, "they belong together"
        good = _judged(
            "".join(fill(source.good, record)), patterns(source.good_is or ()), patterns(source.bad_is or ())
        )
        return Compared(prompt, (fill(source.completion, record, markers),), (0 if good else 1,))
    if source.chosen is not None:
        answers = (
            fill(source.chosen, record, markers),
            *(fill(t, record, markers) for t in rejected_templates(source)),
        )
        return Compared(prompt, answers, tuple(range(len(answers))), _margin(source, record))
    assert source.answers is not None and source.scores is not None, "one of them says where answers are"
    weights = {source.scores: 1.0} if isinstance(source.scores, str) else source.scores
    return _listed(prompt, record, source.answers, weights)


def _margin(source: Source, record: Mapping[str, Any]) -> float:
    if source.margin is None:
        return 0.0
    text = "".join(fill(source.margin, record)).strip()
    try:
        value = float(text or "0")
    except ValueError:
        raise Unfit(UNMEASURED, f"`{source.margin}` is {text[:40]!r}") from None
    if not math.isfinite(value) or value < 0 or value > 1e9:
        raise Unfit(UNMEASURED, f"`{source.margin}` is {text[:40]}, and 0 … 1e9 are margins")
    return value


def _judged(value: str, good: Sequence[str], bad: Sequence[str]) -> bool:
    """Whether an answer is good, of which that is said; by the words for it where they are no usual ones."""
    word = value.strip().lower()
    is_good, is_bad = ([one.strip().lower() for one in words] for words in (good, bad))
    if good and word and (word in is_good or not bad or word in is_bad):
        return word in is_good
    if good or word not in JUDGED:
        raise Unfit(UNJUDGED, f"`{word[:40]}`" if word else "it says nothing")
    return JUDGED[word]


def _listed(prompt: tuple[Turn, ...], record: Mapping[str, Any], field: str, weights: Mapping[str, float]) -> Compared:
    """Answers in a field, by the weighted sum of their scores in others."""
    answers = record.get(field)
    if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
        raise Unfit(UNREADABLE, f"`{field}` is no list of texts")
    total = [Fraction()] * len(answers)
    for name, weight in weights.items():
        scores = record.get(name)
        if not isinstance(scores, list | tuple) or len(scores) != len(answers):
            raise Unfit(UNSCORED, f"`{name}` is no list of {len(answers)} numbers")
        for i, score in enumerate(scores):
            total[i] += _exact(weight) * _exact(_number(score, f"`{name}` of answer {i + 1}"))
    return _scored(prompt, answers, total)


def _number(score: Any, what: str) -> float:
    """A score, which tables and some sets write as text."""
    try:
        value = float(score) if isinstance(score, int | float | str) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise Unfit(UNSCORED, f"{what} is no number")
    return value


def _exact(number: float) -> Fraction:
    """A number as it is written down: sums of it tie where those on paper do, as 0.1 · 7 and 0.7 · 1."""
    return Fraction(repr(number))


def _scored(prompt: tuple[Turn, ...], answers: Sequence[str], scores: Sequence[float | Fraction]) -> Compared:
    steps = sorted(set(scores), reverse=True)
    return Compared(prompt, tuple((a,) if a else () for a in answers), tuple(steps.index(x) for x in scores))


# -- what is recognised --------------------------------------------------------------------------------------------
ASKED = ("prompt", "messages", "question", "instruction")
"""Fields that hold what is answered, the first that there is: of Hugging Face, axolotl, Orca's sets, and Alpaca."""


def _text(value: Any) -> bool:
    return isinstance(value, str) and not lists_messages(value)


def _messages(value: Any, field: str) -> list[Turn]:
    """The turns of a list of messages, or of one message."""
    return messages_of([value] if isinstance(value, Mapping) else value, field)


def _answer(value: Any, field: str) -> Pieces:
    """An answer that is a text, a message, or a list of one."""
    if _text(value):
        return content_of(value, field)
    turns = _messages(value, field)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Unfit(UNREADABLE, f"`{field}` is not one turn of assistant")
    return turns[0].content


def _prompt(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns before an answer: a text, or a list of messages; with the system's, where there are any."""
    value = next((record[key] for key in ASKED if record.get(key) is not None), None)
    return _instructed(
        record, (Turn("user", content_of(value, "prompt")),) if _text(value) else messages_of(value, "prompt")
    )


def _instructed(record: Mapping[str, Any], turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns behind what a record's `system` says, unless they have a turn of system themselves."""
    said = record.get("system")
    if not isinstance(said, str) or not said.strip() or any(turn.role == "system" for turn in turns):
        return tuple(turns)
    return (Turn("system", content_of(said, "system")), *turns)


def _preference(record: Mapping[str, Any]) -> Compared:
    whole = [_whole(record[key], key) for key in ("chosen", "rejected")]
    if whole[0] is None or whole[1] is None:
        if all(record.get(key) is None for key in ASKED):
            raise Unfit(EMPTY, "no prompt, and `chosen` and `rejected` are no whole dialogues")
        answers = tuple(_answer(record[key], key) for key in ("chosen", "rejected"))
        return Compared(_prompt(record), answers, (0, 1))
    prompts = [tuple(turns[:-1]) for turns in whole if turns]
    if len(prompts) < 2 or any(turns[-1].role != "assistant" for turns in whole if turns):
        raise Unfit(UNREADABLE, "a dialogue that does not end with the assistant")
    if prompts[0] != prompts[1]:
        raise Unfit(PROMPTS_DIFFER)
    return Compared(_instructed(record, prompts[0]), (whole[0][-1].content, whole[1][-1].content), (0, 1))


def _whole(value: Any, field: str) -> list[Turn] | None:
    """A dialogue with its prompt: messages that do not begin with the answer, or a transcript as those of HH-RLHF;
    None of an answer alone."""
    if _text(value):
        parts = _SPEAKER.split(value)
        if len(parts) < 3 or parts[0].strip():
            return None
        roles, texts = parts[1::2], parts[2::2]
        return [
            Turn("user" if role == "Human" else "assistant", content_of(text.strip(), field))
            for role, text in zip(roles, texts, strict=True)
        ]
    turns = _messages(value, field)
    return None if len(turns) == 1 and turns[0].role == "assistant" else turns


_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
"""What begins a turn of a transcript (Bai et al. 2022, arXiv:2204.05862)."""


def _thumbs(record: Mapping[str, Any]) -> Compared:
    label = record["label"]
    good = label if isinstance(label, bool) else _judged(str(label), (), ())
    return Compared(_prompt(record), (_answer(record["completion"], "completion"),), (0 if good else 1,))


def _ranked(record: Mapping[str, Any]) -> Compared:
    return _listed(_prompt(record), record, "answers", {"scores": 1.0})


def _completions(record: Mapping[str, Any]) -> Compared:
    """Of each answer the mean of its ratings, or what it is worth over all (Cui et al. 2023, arXiv:2310.01377)."""
    given = record["completions"]
    key = next(key for key in RATED if any(key in one for one in given))
    scores = [_number(one.get(key), f"`{key}` of answer {i + 1}") for i, one in enumerate(given)]
    return _scored(_prompt(record), [one["response"] for one in given], scores)


RATED = ("fine-grained_score", "overall_score", "score")
"""Keys of the score of one of the `completions`, the first that there is."""


def _rated(record: Mapping[str, Any]) -> bool:
    given = record.get("completions")
    return (
        isinstance(given, list | tuple)
        and bool(given)
        and all(isinstance(one, Mapping) and isinstance(one.get("response"), str) for one in given)
        and any(key in one for one in given for key in RATED)
    )


def _two(record: Mapping[str, Any]) -> Compared:
    """Below 0 the first is better, above it the second (Wang et al. 2024, arXiv:2410.01257)."""
    strength = _number(record["preference_strength"], "`preference_strength`")
    answers = [record[name] for name in TWO]
    if not all(isinstance(answer, str) for answer in answers):
        raise Unfit(UNREADABLE, f"`{TWO[0]}` and `{TWO[1]}` are no texts")
    return _scored(_prompt(record), answers, [-strength, strength])


TWO = ("response_1", "response_2")
"""Fields of two answers, one of which `preference_strength` prefers."""


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda record: all(name in record for name in names)


def _both_said(record: Mapping[str, Any]) -> bool:
    return all(isinstance(record.get(key), str | list | tuple | Mapping) for key in ("chosen", "rejected"))


PREFERENCES: tuple[Preferences, ...] = (
    Preferences("ranked answers", _has("answers", "scores"), ("prompt", "messages", "answers", "scores"), _ranked),
    Preferences("preference", _both_said, ("system", *ASKED, "chosen", "rejected"), _preference),
    Preferences("rated completions", _rated, ("system", *ASKED, "completions"), _completions),
    Preferences(
        "preference strength",
        _has("preference_strength", *TWO),
        ("system", *ASKED, *TWO, "preference_strength"),
        _two,
    ),
    Preferences(
        "unpaired preference", _has("prompt", "completion", "label"), ("prompt", "completion", "label"), _thumbs, False
    ),
)
"""In the order in which they are tried: records of `llmspec rank`, pairs of Hugging Face (trl,
docs/source/dataset_formats.md), records of UltraFeedback and of HelpSteer2, and single answers of Hugging Face."""


def recognised_preference(record: Mapping[str, Any]) -> Preferences | None:
    """The first format of the table that a record has, or None."""
    return next((form for form in PREFERENCES if form.fits(record)), None)


# -- read as something else ------------------------------------------------------------------------------------------
def prompt_text(found: Compared) -> str:
    """What records with one prompt have in common: they are all on one side of a split."""
    return "\0".join(f"{role}\0{''.join(content)}" for role, content in found.prompt)


def best_dialogue(found: Compared | Dropped) -> list[Turn] | Dropped:
    """The prompt with the best answer."""
    if isinstance(found, Dropped):
        return found
    return Dropped(BAD) if found.ranks[0] else found.dialogues[0]


def best_text(found: Compared | Dropped) -> Pieces | Dropped:
    """The same as plain text, with blank lines between; of a bad answer too, which is text all the same."""
    if isinstance(found, Dropped):
        return found
    merged = list[str]()
    for i, turn in enumerate(found.dialogues[0]):
        for piece in (*(("\n\n",) if i else ()), *turn.content):
            if merged and not isinstance(piece, Marker) and not isinstance(merged[-1], Marker):
                merged[-1] += piece
            else:
                merged.append(piece)
    return tuple(merged)
