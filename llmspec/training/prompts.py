"""What a phase's samples continue or answer, as tokens; and a rehearsal of that before step 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import LlmspecError, Problem, SpecError
from llmspec.data.pair_form import PairForm, source_ids
from llmspec.data.shaping import CODES
from llmspec.data.spans import SpanLayout
from llmspec.data.unknown import of_prompt
from llmspec.data.views import PROMPT
from llmspec.decoding.filling import check_length, masked_text
from llmspec.decoding.generate import generate
from llmspec.decoding.prompts import prompt_tokens, text_prompt
from llmspec.decoding.spans import MARKS, span_row, span_text, spans_said
from llmspec.parts.phases.base import FILLER
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.templates.base import encode
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.special_tokens import ROLES, ChatRole
from llmspec.training import rollouts

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData
    from llmspec.data.tokens import TokenSet

BETWEEN = " | "
"""Between what is said of the places of a text."""
LOOKED_AT = 1000
"""Dialogues of each source among which prompts are looked for, at most."""

SHORT = 8
"""Tokens of an answer, below which it is worth saying that there is no room for more."""


@dataclass(frozen=True)
class Prompt:
    """What one sample begins with."""

    text: str
    """As it is shown and recorded."""
    tokens: list[int]
    chat: bool
    """Whether it is answered, rather than continued."""
    origin: str = ""
    """Where it was taken from; '' for what the spec says."""
    target: str = ""
    """What is to be said, where that is known."""


def prompts_of(plan: Plan, phase: PhasePlan, prepared: PreparedData) -> tuple[Prompt, ...]:
    """What samples of a phase begin with: its `prompts:`; else the users' turns of the first held-out dialogues, or of
    training dialogues where none are held out; else the start of a document. Raises LlmspecError."""
    part, codec = phase.phase, prepared.codec
    if not part.prompts and part.cuts == "spans":
        return (left_out(phase, prepared),)
    if part.prompts:
        return tuple(written(plan, part, codec, text) for text in part.prompts)
    asked, most = part.dialogues or part.pairs, longest(plan)
    found = openings(phase, prepared) if asked else []
    if getattr(part, "truncation", "none") in ("source", "both"):
        ends = len(codec.specials.after)
        found = [
            replace(p, tokens=[*p.tokens[: most - ends], *p.tokens[-ends:][:ends]]) if len(p.tokens) > most else p
            for p in found
        ]
    found = [p for p in found if len(p.tokens) <= most]
    every = max(1, len(found) // part.texts_drawn) if part.pairs else 1  # pairs lie sorted in many a list
    return tuple(found[::every][: part.texts_drawn]) or (Prompt("", prompt(plan, codec, "", False), False),)


def left_out(phase: PhasePlan, prepared: PreparedData) -> Prompt:
    """A text with spans left out that is validated with, or else trained on, and what stood there."""
    held_out = [(f"validation text of {s}", v.layout) for s, v in prepared.validation(phase.name).items() if len(v)]
    stream = prepared.stream(phase.name)
    origin, layout = [*held_out, (f"training text of {stream.sources[0]}", stream.layout(stream.sources[0]))][0]
    assert isinstance(layout, SpanLayout)
    read, said = layout.sides(0)
    codec, form = prepared.codec, stream.spans
    assert form is not None
    shown = span_row(codec, read[len(form.before) : len(read) - len(form.after)].tolist())
    spans = spans_said(codec, said.tolist(), len(shown.pieces) - 1)
    return Prompt(shown.shown, read.tolist(), False, origin, BETWEEN.join(span.strip() for span in spans))


def written(plan: Plan, part: Any, codec: Codec, text: str) -> Prompt:
    """A prompt of the spec. Raises LlmspecError where it is no text."""
    if part.cuts == "spans":
        before, after = PairForm(encoder=plan.model.encoder is not None).around(codec.specials)
        return Prompt(text, [*before, *span_text(codec, text).ids, *after], False)
    if part.pairs:
        return Prompt(text, source_ids(PairForm(encoder=plan.model.encoder is not None), codec, text), False)
    chat = part.templated
    return Prompt(text, prompt(plan, codec, text, chat), chat)


def prompt(plan: Plan, codec: Codec, text: str, chat: bool) -> list[int]:
    """Ids of a prompt, as `LanguageModel.tokens` has them."""
    whole = plan.model.encoder is not None
    return prompt_tokens(codec, plan.chat_template, text, chat, plan.tokenizer.markers, whole)


def longest(plan: Plan) -> int:
    """Tokens of a prompt at most: those that the encoder reads, or that leave room for an answer behind them."""
    return plan.model.encoder_context or plan.model.context - 1


# -- prompts from dialogues --------------------------------------------------------------------------------------------
def openings(phase: PhasePlan, prepared: PreparedData) -> list[Prompt]:
    """The first dialogues of a phase up to their first answer: the held-out ones, else those it is trained on."""
    form = "pair" if phase.phase.pairs else PROMPT if phase.phase.prompted else "dialogue"
    template = prepared.pair_form if phase.phase.pairs else prepared.template
    sets = {source: (train, held) for source, train, held in prepared.sides().get(form, ())}
    shares = sorted((s for s in phase.shares if s.share > 0 and s.source in sets), key=lambda s: -s.share)
    for which, side in ((1, "validation text"), (0, "training text")):
        found = [
            prompt
            for share in shares
            for prompt in opened(
                prepared.codec, template, sets[share.source][which], f"{side} of {share.source}", phase.phase.pairs
            )
        ]
        if found:
            return found
    return []


def opened(
    codec: Codec, template: ChatTemplate, dialogues: TokenSet, origin: str, pairs: bool = False
) -> Iterator[Prompt]:
    """The beginnings of a source's first dialogues: up to the assistant's first words, or to where it could answer; of
    `pairs`, the sources with their targets."""
    assert dialogues.role_of_token is not None
    for i in range(min(LOOKED_AT, len(dialogues.lengths))):
        begin, end = dialogues.offsets[i], dialogues.offsets[i + 1]
        ids, said_by = dialogues.tokens[begin:end].tolist(), dialogues.role_of_token[begin:end].tolist()
        target = ""
        if CODES["assistant"] in said_by:
            begins = said_by.index(CODES["assistant"])
            target = codec.decode(ids[begins:]) if pairs else ""
            tokens, said_by = ids[:begins], said_by[:begins]
        else:
            tokens = [*ids, *encode(codec, template.answer(codec.specials))]
        if text := "\n".join(turns(codec, tokens, said_by)):
            yield Prompt(text, tokens, not pairs, origin, target)


def spoken(codec: Codec, tokens: Sequence[int], said_by: Sequence[int]) -> Iterator[tuple[ChatRole, str]]:
    """The turns of a dialogue: stretches of tokens of one speaker, without the ends of turns."""
    end = codec.specials.turn_end
    for speaker, group in groupby(zip(tokens, said_by, strict=False), key=lambda one: one[1]):
        if speaker:
            yield ROLES[speaker - 1], codec.decode([token for token, _ in group if token != end], specials=True)


def turns(codec: Codec, tokens: Sequence[int], said_by: Sequence[int]) -> list[str]:
    """What is said in them."""
    return [text for _, text in spoken(codec, tokens, said_by)]


# -- before step 0 -----------------------------------------------------------------------------------------------------
def rehearse(plan: Plan, prepared: PreparedData) -> list[str]:
    """Tries what samples will do, with a model that knows nothing; what a person should know of it.

    Raises SpecError with every prompt that does not fit, and with settings that no text can be drawn by.
    """
    problems, notices = looked_at(plan, prepared.codec)
    for phase in plan.phases:
        if phase.draws and (phase.phase.dialogues or phase.phase.pairs) and not phase.phase.prompts:
            notices += chosen(plan, phase, prepared)
        if phase.phase.prompted:
            problems += [p.at("phases", phase.name) for p in rollouts.problems(plan, phase, prepared)]
    if not problems and any(p.draws for p in plan.phases) and (wrong_settings := drawn(plan, prepared.codec)):
        problems.append(wrong_settings)
    if problems:
        raise SpecError(problems)
    return notices


def check_prompts(plan: Plan) -> None:
    """Raises SpecError with every prompt that does not fit, where the tokenizer is known before any text is read."""
    if not plan.tokenizer.learns and (problems := looked_at(plan, plan.tokenizer.at(plan.base).train(()))[0]):
        raise SpecError(problems)


def looked_at(plan: Plan, codec: Codec) -> tuple[list[Problem], list[str]]:
    """(what is wrong with the spec's prompts, what is worth saying of them)."""
    problems, notices = list[Problem](), list[str]()
    for phase in plan.phases:
        for i, text in enumerate(phase.phase.prompts):
            wrong, said = tried(plan, phase, codec, text)
            problems += [p.at("phases", phase.name, "prompts", i) for p in wrong]
            notices += [f"{phase.name}, prompt {i + 1}: {s}" for s in said]
    for i, text in enumerate(plan.prompts):
        wrong = [p for phase in plan.phases if phase.draws for p in tried(plan, phase, codec, text)[0]]
        problems += [p.at("prompts", i) for p in wrong[:1]]
    if plan.prompts and plan.phases and not any(phase.draws for phase in plan.phases):
        problems.append(
            Problem(
                "no phase of this spec makes a model that draws text",
                ("prompts",),
                "leave `prompts:` out",
                "nobody would answer them",
            )
        )
    return problems, notices


def tried(plan: Plan, phase: PhasePlan, codec: Codec, text: str) -> tuple[list[Problem], list[str]]:
    """(what is wrong with a prompt, what is worth saying of it)."""
    context, most, encoder = plan.model.context, longest(plan), bool(plan.model.encoder_context)
    if phase.makes == FILLER:
        return masked_problems(phase, codec, text), []
    if phase.phase.objective.reads_whole and not phase.phase.objective.sums_tokens:
        empty = Problem("this prompt is empty", (), "a text to read", "nothing could be said of it")
        return [] if text.strip() else [empty], []
    try:
        prompt = written(plan, phase.phase, codec, text)
    except LlmspecError as e:
        return [Problem(p.message, (), p.hint, p.consequence) for p in e.problems], []
    length = len(prompt.tokens)
    if length > most:
        marked = phase.phase.cuts == "spans"  # an empty prompt would be none
        own = {*codec.specials.values()} if marked else set()
        marks = sum(t in own for t in prompt.tokens) or len(written(plan, phase.phase, codec, "").tokens)
        special, named = (
            f"{marks} special token{'s' * (marks > 1)}",
            "model.encoder.context" if encoder else "model.context",
        )
        return [
            Problem(
                f"this prompt has {length:,} tokens, {special} around its text among them, and the model's "
                + (f"encoder reads {most:,}" if encoder else f"context is {context:,}"),
                hint=f"shorten it by {length - most:,} or more tokens, or raise {named}"
                if most + 1 > marks
                else f"raise {named} to {length + (not encoder):,} or more",
                consequence="its end would not be read" if encoder else "there would be no room for an answer",
            )
        ], []
    room, drawn = context - (1 if encoder else length), plan.decoding.max_tokens
    said = (
        [f"it leaves room for {room} token{'s' * (room > 1)} of an answer, and max_tokens is {drawn}"]
        if room < min(SHORT, drawn)
        else []
    )
    unknown = of_prompt(codec, MARKS.sub("", text) if phase.phase.cuts == "spans" else text, plan.tokenizer.markers)
    return [], [*said, unknown] if unknown else said


def masked_problems(phase: PhasePlan, codec: Codec, text: str) -> list[Problem]:
    """What is wrong with a prompt whose masked places are to be filled."""
    try:
        check_length(masked_text(codec, text, phase.phase.around(codec.specials) is not None), phase.model)
    except LlmspecError as e:
        return [Problem(p.message, (), p.hint, p.consequence) for p in e.problems]
    return []


def chosen(plan: Plan, phase: PhasePlan, prepared: PreparedData) -> list[str]:
    """What samples of a chat phase without prompts begin with."""
    found, taken = openings(phase, prepared), prompts_of(plan, phase, prepared)
    if not found:
        return []
    cut = getattr(phase.phase, "truncation", "none") in ("source", "both")
    long = 0 if cut else sum(len(p.tokens) > longest(plan) for p in found)
    fit = len(found) - long
    count = "first dialogue" if len(taken) == 1 else f"first {len(taken)} dialogues"
    if phase.phase.pairs:
        count = "source" if len(taken) == 1 else f"sources of {len(taken)} pairs"
    said = (
        f"{phase.name} has no `prompts:`; its samples answer the {count} of the {taken[0].origin}"
        if fit
        else f"{phase.name} has no `prompts:`, and no dialogue leaves room for an answer; "
        "its samples start from an empty prompt"
    )
    return [said + (f" ({long:,} of {len(found):,} are skipped, since they leave no room)" if long else "")]


def drawn(plan: Plan, codec: Codec) -> Problem | None:
    """What is wrong with the decoding settings: two tokens are drawn by them."""
    start = text_prompt(codec, "")
    most = min(2, plan.model.context - len(start))
    try:
        generate(
            Dice(plan.model.vocab, plan.model.context),
            codec,
            [start],
            plan.decoding.updated(max_tokens=most),
            seed=plan.seed,
            chat=True,
        )
    except Exception as e:  # whatever it is, it would have come in the middle of training
        said = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
        return Problem(
            f"no text can be drawn with these settings: {said}",
            ("decoding",),
            "leave out the unusual ones",
            "no sample could be drawn, in training or after it",
        )
    return None


class Dice:
    """A decoder that keeps nothing of what it reads, and its own cache: the same random logits each time."""

    encoder_context = 0

    def __init__(self, vocab: int, context: int) -> None:
        self.vocab, self.context = vocab, context
        self.read: list[list[int]] = []

    def fit(self, rows: int, tokens: int, kind: str) -> tuple[int, int]:
        return rows, tokens

    def worth(self, kept: int, tokens: int) -> bool:
        return False

    def cache(self, rows: int, places: int, kind: str) -> Dice:
        self.read = [[] for _ in range(rows)]
        return self

    def shorten(self, row: int, length: int) -> None:
        pass

    def reorder(self, parents: Sequence[int]) -> None:
        pass

    def prefill(self, prompts: Any, cache: Any, rows: Sequence[int], reuse: bool) -> tuple[Dice, Any]:
        return self, self.step(self, rows, [])

    def step(self, cache: Any, tokens: Sequence[int], active: Sequence[bool]) -> Any:
        import numpy as np

        return np.random.default_rng(0).normal(0, 3, (len(tokens), self.vocab)).astype(np.float32)
