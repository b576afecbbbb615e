"""One answer as it is drawn: tokens from logits, text from tokens, and when it ends.

Shape letters: T positions after the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmspec.decoding.chain import Step, trace
from llmspec.decoding.sampler import Choice, Uniforms, Weighed, choose, number_of
from llmspec.decoding.stops import TextStream
from llmspec.parts.filters import Context
from llmspec.parts.tokenizers.base import Codec
from llmspec.spec.decoding import Decoding

if TYPE_CHECKING:
    from llmspec.parts.filters.base import Floats

FinishReason = Literal["stop", "end", "max_tokens", "length"]
"""stop: a stop sequence or, in a chat, the end of the turn; end: the end token; length: the context is full."""
CUT: tuple[FinishReason, ...] = ("max_tokens", "length")
"""Why an answer ends that the model did not end."""


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


class Drawing:
    """How all answers of a batch are drawn."""

    def __init__(
        self,
        codec: Codec,
        decoding: Decoding,
        context: int,
        seed: int,
        chat: bool,
        tracing: bool,
        encoded: bool = False,
    ) -> None:
        """`encoded`: prompts go to an encoder, and a start token alone stands before an answer."""
        self.encoded = encoded
        self.codec, self.decoding, self.context, self.seed, self.tracing = codec, decoding, context, seed, tracing
        self.filters, self.chat = decoding.chain(), chat
        end = codec.specials.eos
        self.ends: dict[int, FinishReason] = dict.fromkeys(codec.specials.ends, "end")
        """Special tokens that end an answer, and why."""
        if end is not None:
            self.ends[end] = "end"
        if chat:  # a role token begins somebody else's turn
            self.ends |= dict.fromkeys(codec.specials.roles.values(), "stop")
            if codec.specials.turn_end is not None:
                self.ends[codec.specials.turn_end] = "stop"

    def places(self, prompt: Sequence[int]) -> int:
        """Places of the context that stand before an answer to a prompt."""
        return 1 if self.encoded else len(prompt)


class Answer:
    """An answer that is being drawn: its prompt (token ids), and what has been drawn so far."""

    def __init__(self, how: Drawing, prompt: int, sample: int, ids: Sequence[int], first: int = 0) -> None:
        import numpy as np

        self.prompt, self.sample, self.ids = prompt, sample, list(ids)
        self._uniform = Uniforms(how.seed, first + sample, number_of(self.ids))
        self.places = how.places(self.ids)
        """Places of a row that the prompt takes."""
        self.most = min(how.decoding.max_tokens, how.context - how.places(self.ids))
        """Tokens that it has at most."""
        self.drawn = 0
        self._full: FinishReason = "max_tokens" if self.most == how.decoding.max_tokens else "length"
        self._how, self._text = how, TextStream(how.codec, how.decoding.stop, how.chat)
        self._prompt_ids = np.asarray(self.ids, dtype=np.int64)
        self._tokens_T = np.empty(self.most, dtype=np.int64)

    @property
    def vocab(self) -> int:
        """Tokens that there are: a padded vocabulary has rows that no token has."""
        return self._how.codec.vocab

    @property
    def last(self) -> int:
        """The token drawn last."""
        return int(self._tokens_T[self.drawn - 1])

    def draw(self, logits_V: Floats, weighed: Weighed | None = None) -> Event:
        """Draws the next token from logits (V,) float64 of the tokens that there are; its event's row is the sample.
        `weighed` are they as `weigh` gives them."""
        how, position = self._how, self.drawn
        context = Context(self._prompt_ids, self._tokens_T[:position])
        choice = choose(logits_V, context, how.filters, self._uniform(position), weighed)
        steps = tuple(trace(logits_V, context, how.filters)) if how.tracing else ()
        self._tokens_T[position] = choice.token
        self.drawn += 1
        shown = self._text.push(choice.token)
        reason = how.ends.get(choice.token) or (self._full if self.drawn == self.most else None)
        if reason:
            shown += self._text.finish()
        if self._text.stopped is not None and reason != "end":
            reason = "stop"
        return Event(self.sample, choice.token, shown, choice, reason, steps)
