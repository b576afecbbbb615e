"""Generation: prefill, then one token per row and step, until every row has ended.

Shape letters: R rows (parallel answers to one prompt), T positions after the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from llmspec.core.problems import LlmspecError
from llmspec.decoding.chain import Step, trace
from llmspec.decoding.sampler import Choice, choose, uniform
from llmspec.decoding.stops import TextStream
from llmspec.parts.filters import Context
from llmspec.parts.tokenizers.base import Codec
from llmspec.parts.tokenizers.special_tokens import EOS
from llmspec.spec.decoding import Decoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["stop", "end", "max_tokens", "length"]
"""stop: a stop sequence or, in a chat, the end of the turn; end: the end token; length: the context is full."""


class Decoder(Protocol):
    """A model that reads a prompt once and then one token per row at a time."""

    @property
    def context(self) -> int:
        """Most tokens of one row, prompt included."""

    def prefill(self, tokens: list[int], rows: int) -> tuple[Any, NDArray[np.float32]]:
        """Read one prompt for `rows` parallel continuations: their KV cache, and logits (R, V) of what follows."""

    def step(self, cache: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Read one more token per row, R ids: logits (R, V) of the tokens after them."""


@dataclass(frozen=True)
class Event:
    """One token drawn."""

    row: int
    """Which answer: prompt * n + sample."""
    token: int
    text: str
    """Text that has become certain with this token, empty at times; together they are the answer."""
    choice: Choice
    finish_reason: FinishReason | None
    """Why the answer ends with this token; None while it goes on."""
    steps: tuple[Step, ...] = ()
    """What each filter did to the distribution, where that was asked for."""


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
    def tokens(self) -> list[int]:
        return [choice.token for choice in self.choices]


def stream(
    decoder: Decoder, codec: Codec, prompts: Sequence[Sequence[int]], decoding: Decoding, *, n: int = 1,
    seed: int | None = None, chat: bool = False, tracing: bool = False,
) -> Iterator[Event]:  # fmt: skip
    """Draw `n` answers to each prompt (token ids), one prompt after the other, and yield each token as it is drawn.

    The text of an answer follows from the seed (`seed`, else the decoding's, else 0), its prompt and its sample
    number, not from the other rows. With `chat`, an end of turn or a role token ends the answer, too; otherwise
    they are not shown. With `tracing`, events carry what every filter did: 2 float64 arrays (V,) per filter.

    Raises:
        LlmspecError: before anything is drawn, where a prompt is empty or leaves no room in the context; and
            where the model's logits are not numbers.
    """
    if n < 1:
        raise LlmspecError(f"{n} answers were asked for", "ask for 1 or more")
    for index, prompt in enumerate(prompts):
        _check_room(f"prompt {index + 1}" if len(prompts) > 1 else "the prompt", len(prompt), decoder.context)
    if seed is None:
        seed = decoding.seed or 0
    for index, prompt in enumerate(prompts):
        for event in _answers(decoder, codec, list(prompt), decoding, n, seed, chat, tracing):
            yield replace(event, row=index * n + event.row)


def generate(
    decoder: Decoder, codec: Codec, prompts: Sequence[Sequence[int]], decoding: Decoding, *, n: int = 1,
    seed: int | None = None, chat: bool = False, on_token: Callable[[Event], object] | None = None,
) -> list[Generation]:  # fmt: skip
    """`stream`, collected: the answers in the order of prompts and samples; `on_token` sees every event first."""
    events: list[list[Event]] = [[] for _ in range(n * len(prompts))]
    for event in stream(decoder, codec, prompts, decoding, n=n, seed=seed, chat=chat):
        if on_token:
            on_token(event)
        events[event.row].append(event)
    return [
        Generation(
            row // n, row % n, "".join(e.text for e in drawn), tuple(e.choice for e in drawn),
            drawn[-1].finish_reason or "length",
        )
        for row, drawn in enumerate(events)
    ]  # fmt: skip


def _check_room(which: str, length: int, context: int) -> None:
    if length == 0:
        raise LlmspecError(f"{which} is empty", f"begin it with {EOS}, which stands before every document")
    if length >= context:
        raise LlmspecError(
            f"{which} has {length} tokens, and the model's context is {context}",
            f"shorten it to {context - 1} tokens or fewer, or train with a longer model.context",
            "there would be no room for an answer",
        )


def _answers(
    decoder: Decoder, codec: Codec, prompt: list[int], decoding: Decoding, n: int, seed: int, chat: bool, tracing: bool
) -> Iterator[Event]:
    """Draw n answers to one prompt; the events' rows are samples."""
    import numpy as np

    ends, filters = _ending_tokens(codec, chat), decoding.chain()
    most = min(decoding.max_tokens, decoder.context - len(prompt))
    full: FinishReason = "max_tokens" if most == decoding.max_tokens else "length"
    texts = {sample: TextStream(codec, decoding.stop) for sample in range(n)}
    # Rows that have ended are fed the end token until all have: what they compute is not read.
    drawn_RT = np.full((n, most), codec.specials.need("eos"), dtype=np.int64)
    prompt_ids = np.asarray(prompt, dtype=np.int64)
    for position in range(most):
        if position == 0:
            cache, logits_RV = decoder.prefill(prompt, n)
        else:
            logits_RV = decoder.step(cache, drawn_RT[:, position - 1].tolist())
        logits_RV = np.array(logits_RV, dtype=np.float64)
        for row, text in list(texts.items()):
            context = Context(prompt_ids, drawn_RT[row, :position])
            choice = choose(logits_RV[row], context, filters, uniform(seed, row, position))
            steps = tuple(trace(logits_RV[row], context, filters)) if tracing else ()
            drawn_RT[row, position] = choice.token
            shown = text.push(choice.token)
            reason = ends.get(choice.token) or (full if position + 1 == most else None)
            if reason:
                shown += text.finish()
            if text.stopped is not None and reason != "end":
                reason = "stop"
            if reason:
                del texts[row]
            yield Event(row, choice.token, shown, choice, reason, steps)
        if not texts:
            return


def _ending_tokens(codec: Codec, chat: bool) -> dict[int, FinishReason]:
    """Special tokens that end an answer. A role token in a chat begins somebody else's turn."""
    ends: dict[int, FinishReason] = {codec.specials.need("eos"): "end"}
    if chat:
        ends |= dict.fromkeys(codec.specials.roles.values(), "stop")
        if codec.specials.turn_end is not None:
            ends[codec.specials.turn_end] = "stop"
    return ends
