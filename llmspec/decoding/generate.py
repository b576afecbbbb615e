"""Generation: answers to prompts, token by token or whole.

Shape letter: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError, Problem
from llmspec.decoding.answer import CUT, Answer, Drawing, Event, FinishReason
from llmspec.decoding.batch import ROWS, Batch, Decoder, Notice, Stopped
from llmspec.decoding.sampler import Choice
from llmspec.parts.tokenizers.base import Codec
from llmspec.parts.tokenizers.special_tokens import EOS
from llmspec.spec.decoding import Decoding

Whole = TypeVar("Whole")


@dataclass(frozen=True)
class Generation:
    """One answer."""

    prompt: int
    """Index of its prompt."""
    sample: int
    """Index among the answers to that prompt."""
    text: str
    """What was said: without special tokens, cut where a stop sequence begins."""
    choices: tuple[Choice, ...]
    """Every token drawn, the one that ended the answer included."""
    finish_reason: FinishReason

    @property
    def ended(self) -> bool:
        """Whether the model ended it by itself, rather than that it was cut."""
        return self.finish_reason not in CUT

    @property
    def tokens(self) -> list[int]:
        return [choice.token for choice in self.choices]


def stream(
    decoder: Decoder, codec: Codec, prompts: Sequence[Sequence[int]], decoding: Decoding, *, n: int = 1,
    seed: int | None = None, chat: bool = False, tracing: bool = False, notice: Notice | None = None,
    rows: int = ROWS, cache: Any = None, first: int = 0, stopped: Stopped | None = None,
) -> Iterator[Event]:  # fmt: skip
    """Draw `n` answers to each prompt (token ids) and yield each token as it is drawn.

    As many answers as `rows` and memory allow are drawn side by side; one that has ended makes room for the next.

    The text of an answer follows from the seed (`seed`, else the decoding's, else 0), its prompt and its sample
    number, not from the other rows. With `chat`, an end of turn or a role token ends the answer, too; otherwise
    they are not shown. With `tracing`, events carry what every filter did: 2 float64 arrays (V,) per filter. `notice`
    is told where memory allows fewer rows. The draws are those of the samples from `first` on. With a `cache` of the
    decoder's, what its rows have read of the prompts is not read again. Once `stopped` holds, nothing more is read or
    drawn.

    Raises:
        LlmspecError: before anything is drawn, where a prompt is empty or leaves no room in the context; and
            where the model's logits are not finite.
    """
    if n < 1:
        raise LlmspecError(f"{n} answers were asked for", "ask for 1 or more")
    if problems := [
        problem
        for index, prompt in enumerate(prompts)
        if (
            problem := no_room(
                f"prompt {index + 1}" if len(prompts) > 1 else "the prompt",
                prompt,
                decoder.context,
                decoder.encoder_context,
            )
        )
    ]:
        raise LlmspecError(problems)
    drawn_from = (decoding.seed or 0) if seed is None else seed
    how = Drawing(codec, decoding, decoder.context, drawn_from, chat, tracing, bool(decoder.encoder_context))
    answers = (Answer(how, index, sample, prompt, first) for index, prompt in enumerate(prompts) for sample in range(n))
    longest = max((min(how.places(p) + decoding.max_tokens, decoder.context) for p in prompts), default=0)
    batch = Batch(decoder, answers, n * len(prompts), longest, rows, notice, cache, decoding.kv_cache, stopped)
    for answer, event in batch.events():
        yield replace(event, row=answer.prompt * n + answer.sample)


def generate(
    decoder: Decoder, codec: Codec, prompts: Sequence[Sequence[int]], decoding: Decoding, *, n: int = 1,
    seed: int | None = None, chat: bool = False, on_token: Callable[[Event], object] | None = None,
    notice: Notice | None = None, rows: int = ROWS,
) -> list[Generation]:  # fmt: skip
    """`stream`, collected: the answers in the order of prompts and samples; `on_token` sees every event first."""
    events = stream(decoder, codec, prompts, decoding, n=n, seed=seed, chat=chat, notice=notice, rows=rows)
    return [answer for answers in whole_answers(events, n, on_token) for answer in answers]


def whole_answers(
    events: Iterator[Event], n: int, on_token: Callable[[Event], object] | None = None
) -> Generator[list[Generation]]:
    """The `n` answers to each prompt, in the order of the prompts, as soon as they and those before them are whole.

    After a KeyboardInterrupt, which is passed on, those that are whole come first; for one that hits whoever uses them,
    there is `outlived`.
    """
    drawn: dict[int, list[Event]] = {}
    whole: dict[int, list[Generation]] = {}
    given = 0
    try:
        for event in events:
            if on_token:
                on_token(event)
            drawn.setdefault(event.row, []).append(event)
            if event.finish_reason:
                answers = whole.setdefault(event.row // n, [])
                answers.append(_generation(event.row // n, event.row % n, drawn.pop(event.row)))
                answers.sort(key=lambda answer: answer.sample)
            while len(whole.get(given, ())) == n:
                yield whole.pop(given)
                given += 1
    except KeyboardInterrupt:
        yield from (answers for _, answers in sorted(whole.items()) if len(answers) == n)
        raise


def outlived(things: Generator[Whole], interruption: KeyboardInterrupt) -> Iterator[Whole]:
    """What a generator still gives after an interruption of whoever used it, before it passes it on."""
    yield things.throw(interruption)
    yield from things


def _generation(prompt: int, sample: int, drawn: list[Event]) -> Generation:
    text, choices = "".join(e.text for e in drawn), tuple(e.choice for e in drawn)
    return Generation(prompt, sample, text, choices, drawn[-1].finish_reason or "length")


def generates(model: ModelPlan, fills: bool = False) -> None:
    """Raises LlmspecError for a model whose logits are not those of a next token; `fills`: it fills masked places."""
    if not model.generates:
        raise LlmspecError(
            "this model goes on with no text: it gives no logits of the next token, or its tokens see later ones",
            hint="a prompt with [MASK] is filled in" if fills else "llmspec embed turns texts into vectors",
            consequence="what would be drawn would mean nothing",
        )


def no_room(which: str, prompt: Sequence[int], context: int, encoder_context: int = 0) -> Problem | None:
    """What is wrong with a prompt's length, if anything is; a model with an encoder reads it there."""
    if not len(prompt):
        return Problem(f"{which} is empty", hint=f"begin it with {EOS}, which stands before every document")
    if encoder_context and len(prompt) > encoder_context:
        return Problem(
            f"{which} has {len(prompt)} tokens, and the model's encoder reads {encoder_context}",
            hint=f"shorten it to {encoder_context} tokens or fewer, or train with a longer model.encoder.context",
            consequence="its end would not be read",
        )
    if encoder_context or len(prompt) < context:
        return None
    return Problem(
        f"{which} has {len(prompt)} tokens, and the model's context is {context}",
        hint=f"shorten it to {context - 1} tokens or fewer, or train with a longer model.context",
        consequence="there would be no room for an answer",
    )
