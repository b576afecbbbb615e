"""What an opened model does with texts that it reads whole: vectors, labels, masked places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from llmspec.backends import owner
from llmspec.backends.plain.backend import Backend
from llmspec.compiler.plan import Plan
from llmspec.core.problems import LlmspecError
from llmspec.decoding.classifying import CLASSIFYING, Classified, classifying_head
from llmspec.decoding.embedding import Embedder
from llmspec.decoding.filling import TOP, Filled, Filler, MaskedText, filling_head, masked_text
from llmspec.decoding.numbers import PREDICTING, Predicted, scoring_head
from llmspec.decoding.reading import Embedded, Progress, R, Reader, Reading
from llmspec.decoding.rewarding import JUDGING, reward_head
from llmspec.decoding.tagging import TAGGING, Tagged, tagging_head
from llmspec.model.ids import whole
from llmspec.model.steps import Tensors
from llmspec.parts.heads.pooling import Pooling
from llmspec.parts.heads.score import Score
from llmspec.parts.ops import WeightLayout
from llmspec.parts.phases.base import CLASSIFIER, EMBEDDER, REGRESSOR, REWARD_MODEL, TAGGER
from llmspec.parts.rewards.base import Answered
from llmspec.parts.tokenizers.base import Codec
from llmspec.runs.stored import Taught

if TYPE_CHECKING:
    import numpy as np


USES = (
    ("tells labels of texts", "sample --classify", "classify"),
    ("makes vectors of texts", "embed", "embed"),
    ("makes numbers of texts", "sample RUN --prompt TEXT", "predict"),
    ("makes tags of words", "sample --classify", "tag"),
    ("makes rewards of answers", "rank --by '{kind: reward_model, model: FOLDER}'", "rewards"),
)
"""What a model may be for that draws no text."""


class TextReaders:
    """The part of a LanguageModel that reads whole texts; each kind of reading has its graphs, made when it is first
    asked for."""

    plan: Plan
    codec: Codec
    phase: str
    taught: Taught
    _backend: Backend
    _weights: Tensors
    _layouts: Mapping[str, WeightLayout]

    def __init__(self) -> None:
        self._embedders = dict[str | None, Embedder]()
        self._filler: Filler | None = None
        self._readers = dict[Reading[Any], Any]()

    def _reader(self, kind: Reading[R], *more: Any) -> R:
        """What reads in this way, `more` of which it has to know; made when it is first asked for. Raises LlmspecError
        where the model has no head for it."""
        if kind not in self._readers:
            head = kind.need(self.plan.model, self.taught.head)
            with owner.turn():
                made = kind.reader(
                    self.plan.model, head, self._backend, self._weights, self.codec, self._layouts, *more
                )
            self._readers[kind] = made
        found: R = self._readers[kind]
        return found

    def embed(self, texts: Sequence[str], *, pooling: str | None = None, progress: Progress | None = None) -> Embedded:
        """Vectors of texts, by the model's embedding head; or of any model's last states, by a `pooling` of `mean`,
        `cls` or `last`.

        A text is read whole, between the special tokens of its tokenizer; of one longer than that, which `cut` names,
        the beginning. `progress` is told how many are done. Raises TypeError for what are no texts, LlmspecError where
        the model has no such head, DataError for half a surrogate pair.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("embed takes a list of texts")
        if pooling not in (None, *get_args(Pooling)):
            raise ValueError(f"pooling is one of {', '.join(get_args(Pooling))}, not {pooling!r}")
        if pooling not in self._embedders:
            with owner.turn():
                made = Embedder(self.plan.model, self._backend, self._weights, self.codec, pooling, self._layouts)
            self._embedders[pooling] = made
        return self._embedders[pooling].embed(list(texts), progress or (lambda done, total: None))

    @property
    def makes_vectors(self) -> bool:
        """Whether that is what it was trained for last."""
        return self._makes(EMBEDDER)

    @property
    def tells_numbers(self) -> bool:
        """Whether it was trained last to give texts numbers, so that a prompt is a text to read; of a model without a
        run, whether it can do nothing else."""
        model = self.plan.model
        if self.taught.makes:
            return self._makes(REGRESSOR)
        return scoring_head(model) is not None and all(isinstance(head, Score) for head in model.heads.values())

    @property
    def tags_words(self) -> bool:
        """Whether it was trained last to give words tags, so that a prompt is a text whose words are to have them."""
        if self.taught.makes:
            return self._makes(TAGGER)
        return tagging_head(self.plan.model) is not None and not (self.plan.model.generates or self.tells_labels)

    @property
    def instead(self) -> tuple[str, str, str] | None:
        """(what it gives instead of text, by which verb, by which method), where it was trained for that last."""
        found = (self.tells_labels, self.makes_vectors, self.tells_numbers, self.tags_words, self._makes(REWARD_MODEL))
        return next((use for given, use in zip(found, USES, strict=True) if given), None)

    @property
    def draws_text(self) -> bool:
        """Whether it goes on with texts, by its network and by what it was trained for last."""
        return self.plan.model.generates and self.instead is None

    def _makes(self, sort: str) -> bool:
        return self.taught.makes == sort

    @property
    def fills(self) -> bool:
        """Whether it fills masked places of texts, as encoders that were trained on masked tokens do."""
        if self.makes_vectors or self.tells_numbers or self._makes(TAGGER):
            return False
        return filling_head(self.plan.model) is not None and self.codec.specials.mask is not None

    def fill(self, text: str, *, top: int = TOP) -> Filled:
        """The most probable tokens, `top` of them, at every `[MASK]` of a text.

        Raises TypeError for what is no text, LlmspecError where the model fills nothing, the text has no masked place
        or is longer than the context.
        """
        if not isinstance(text, str):
            raise TypeError("fill takes a text with [MASK] where a token is to be filled in")
        if not self.fills:
            raise LlmspecError(
                "this model fills no masked places",
                hint="`generate` goes on with a text"
                if self.plan.model.generates
                else "open a model with a mask token",
                consequence="its logits say nothing of a place that it sees both sides of",
            )
        given, count = self.masked(text), whole("top", top, 1, self.codec.vocab)
        if self._filler is None:
            with owner.turn():
                self._filler = Filler(self.plan.model, self._backend, self._weights, self.codec, self._layouts)
        return self._filler.fill(given, count)

    def masked(self, text: str) -> MaskedText:
        """A prompt with masked places as it reads it; raises LlmspecError as `fill` does."""
        return masked_text(self.codec, text, self.taught.framed)

    @property
    def classifies(self) -> bool:
        """Whether it gives texts labels by their names."""
        return classifying_head(self.plan.model) is not None

    @property
    def tells_labels(self) -> bool:
        """Whether that is what it was trained for last, so that a prompt is a text to classify."""
        if self.taught.makes:
            return self._makes(CLASSIFIER)
        return self.classifies and not (self.plan.model.generates or self.fills)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it tells apart; none where it classifies nothing."""
        name = CLASSIFYING.found(self.plan.model, self.taught.head)
        return () if name is None else tuple(getattr(self.plan.model.heads[name], "labels", ()))

    def classify(self, text: str) -> Classified:
        """The labels of a text with their probabilities. Raises TypeError for what is no text, LlmspecError where the
        model tells no labels, DataError for half a surrogate pair."""
        if not isinstance(text, str):
            raise TypeError("classify takes a text; classify_batch takes a list of them")
        return self.classify_batch([text])[0]

    def classify_batch(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Classified]:
        """The same of many texts; `progress` is told how many are done."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("classify_batch takes a list of texts")
        return self._reader(CLASSIFYING).classify(list(texts), progress or (lambda done, total: None))

    def predict(self, text: str) -> Predicted:
        """The number of a text, in its labels' unit. Raises TypeError for what is no text, LlmspecError where the model
        gives none, DataError for half a surrogate pair."""
        if not isinstance(text, str):
            raise TypeError("predict takes a text; predict_batch takes a list of them")
        return self.predict_batch([text])[0]

    def predict_batch(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Predicted]:
        """The same of many texts; `progress` is told how many are done."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("predict_batch takes a list of texts")
        return self._reader(PREDICTING).predict(list(texts), progress or (lambda done, total: None))

    @property
    def judges(self) -> bool:
        """Whether it was trained last to say how good answers are; of a model without a run, whether it could."""
        if self.taught.makes:
            return self._makes(REWARD_MODEL)
        return reward_head(self.plan.model) is not None

    def rewards(self, answers: Sequence[Answered]) -> list[float]:
        """How good answers are: only differences mean something. Raises LlmspecError where the model does not say."""
        return self._reader(JUDGING, self.plan.chat_template).rewards(answers)

    def outputs(self, head: str, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(N, outputs) float32: what a head makes of texts as ids, special tokens around them included; of a head that
        says something of each token, of the tokens of all rows, one row behind the other."""
        import numpy as np

        with owner.turn():
            reader = Reader(self.plan.model, head, self._backend, self._weights, self.codec, self._layouts)
        return np.concatenate([reader.of_row(row) for row in rows])

    def tag(self, text: str | Sequence[str]) -> Tagged:
        """The tags of the words of a text, which is split at white space, or of a list of words. Raises TypeError for
        what is neither, LlmspecError where the model tells none, DataError for half a surrogate pair."""
        return self.tag_batch([text])[0]

    def tag_batch(self, texts: Sequence[str | Sequence[str]], *, progress: Progress | None = None) -> list[Tagged]:
        """The same of many texts; `progress` is told how many are done."""
        if isinstance(texts, str) or any(not all(isinstance(word, str) for word in text) for text in texts):
            raise TypeError("tag_batch takes a list of texts, or of lists of words")
        sentences = [text.split() if isinstance(text, str) else list(text) for text in texts]
        return self._reader(TAGGING).tag(sentences, progress or (lambda done, total: None))
