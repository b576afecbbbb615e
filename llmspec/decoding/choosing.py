"""Which of two replies a language model holds more probable, by one pass over the question: nothing is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from llmspec.core.problems import LlmspecError
from llmspec.model.decoder import Decoder
from llmspec.parts.tokenizers.base import Codec

ROWS = 16
"""Questions that are read side by side."""


class TooLong(LlmspecError):
    """A question that the model cannot read."""


class Chooser:
    """A model that is asked questions, each with two replies to choose from."""

    def __init__(self, decoder: Decoder, codec: Codec, asked: Callable[[str], list[int]], before: str = "") -> None:
        """`asked` puts a question into tokens, up to where the reply begins; `before` is what a reply begins with."""
        self._decoder, self._codec, self._asked, self._before = decoder, codec, asked, before

    def choose(self, questions: Sequence[str], replies: tuple[str, str]) -> list[float]:
        """The probability of the first reply to each question, of both replies together.

        Replies are told apart by the first token in which they differ. Raises TooLong for a question that is longer
        than the context, LlmspecError where the replies are one token sequence.
        """
        import numpy as np

        one, other = self._codec.encode([self._before + reply for reply in replies])
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        if shared in (len(one), len(other)):
            raise LlmspecError(f"the model's tokenizer does not tell {replies[0]!r} and {replies[1]!r} apart")
        rows = [[*self._asked(question), *one[:shared]] for question in questions]
        for question, ids in zip(questions, rows, strict=True):
            if len(ids) > self._decoder.context:
                raise TooLong(
                    f"a question to the model that judges has {len(ids):,} tokens, and it reads "
                    f"{self._decoder.context:,}: {question[:60]!r} …",
                    "a model with a longer context, shorter answers (`max_tokens`), or shorter prompts and principles",
                    "it would judge answers of which it has read a part",
                )
        found = np.zeros((len(rows), 2))
        together, places = self._decoder.fit(ROWS, max(map(len, rows), default=1))
        cache = self._decoder.cache(together, places)
        for begin in range(0, len(rows), together):
            some = rows[begin : begin + together]
            _, logits = self._decoder.prefill(some, cache, list(range(len(some))))
            found[begin : begin + len(some)] = logits[:, [one[shared], other[shared]]]
        return [float(value) for value in 1 / (1 + np.exp(found[:, 1] - found[:, 0]))]
