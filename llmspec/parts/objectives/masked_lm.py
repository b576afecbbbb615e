"""Masked language modelling (Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from llmspec.core.metrics import Metric
from llmspec.parts.base import Dims, ElementwiseOps, InputSpec
from llmspec.parts.objectives.base import MASKED, Draw, Loss, Objective, Outputs
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.parts.tokenizers.words import Vocabulary

if TYPE_CHECKING:
    import numpy as np

    from llmspec.parts.ops import Operations, Tensor


class MaskedLM(Objective):
    """Mean negative log-likelihood of tokens that were chosen by chance and mostly hidden, given all others, in nats.

    The places are drawn anew each time that a text is read; those of a validation text are the same
    in every run, as far as its batches are.
    """

    kind: Literal["masked_lm"] = "masked_lm"
    formula: ClassVar[str] = "mean over the chosen places of −log softmax(logits)[the token that stood there]"
    in_float64: ClassVar[tuple[str, ...]] = ("mlm_probability", "mask_replace_prob", "random_replace_prob")
    needs: ClassVar[tuple[str, ...]] = ("bidirectional",)
    special_tokens: ClassVar[tuple[str, ...]] = ("mask",)
    predicts: ClassVar[str] = MASKED
    drawn: ClassVar[bool] = True
    measured: ClassVar[tuple[str, ...]] = ("accuracy",)
    unit: ClassVar[str] = "nats/token"
    mlm_probability: float = Field(0.15, gt=0, le=1)
    """Share of a row's tokens that are chosen, rounded, at least one; special tokens and padding never are."""
    mask_replace_prob: float = Field(0.8, ge=0, le=1)
    """Share of the chosen tokens that are replaced by the mask token."""
    random_replace_prob: float = Field(0.1, ge=0, le=1)
    """Share of them that are replaced by any token of the vocabulary; the rest stay as they are."""
    whole_word_mask: bool = False
    """Whether all tokens of a word are chosen together (google-research/bert, "whole word masking"): as many words, in
    the order in which they are drawn, as have no more tokens than the share."""

    @model_validator(mode="after")
    def _shares(self) -> MaskedLM:
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise ValueError(
                f"`mask_replace_prob` and `random_replace_prob` are shares of the same tokens: together at most 1, not "
                f"{self.mask_replace_prob + self.random_replace_prob:g}"
            )
        return self

    def places(self, context: int) -> int:
        return max(1, round(self.mlm_probability * context))

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        """Which places of each row are chosen, what stood there, and whether it counts: not every row fills them."""
        shape = (batch, self.places(context))
        return {
            "places": InputSpec(shape, "int32"),
            "targets": InputSpec(shape, "int32", ids=True),
            "loss_weights": InputSpec(shape, "float32"),
        }

    def asked(self, batch: Any, draw: Draw, vocabulary: Vocabulary) -> Any:
        """The batch with some of its tokens replaced; its targets are the tokens that stood there, and its weights 1 at
        the chosen places."""
        import numpy as np

        tokens = batch.tokens
        chosen = self.chosen(tokens, batch.filled, draw, vocabulary)
        share = (draw(tokens.size, "replaced by") >> np.uint64(11)).reshape(tokens.shape) / 2.0**53
        other = draw(tokens.size, "another token").reshape(tokens.shape) % np.uint64(max(1, len(vocabulary.plain)))
        masked = chosen & (share < self.mask_replace_prob)
        another = chosen & ~masked & (share < self.mask_replace_prob + self.random_replace_prob)
        read = np.where(masked, np.int32(vocabulary.specials.need("mask")), tokens)
        read = np.where(another, vocabulary.plain[other], read).astype(np.int32)
        return batch._replace(tokens=read, targets=tokens, weights=chosen.astype(np.float32))

    def chosen(self, tokens: np.ndarray, filled: np.ndarray, draw: Draw, vocabulary: Vocabulary) -> np.ndarray:
        """(B, T) bool: the places of tokens (B, T) that are to be predicted, of `filled` (B,) ones a row."""
        import numpy as np

        rows, length = tokens.shape
        free = (np.arange(length) < filled[:, None]) & ~vocabulary.special[tokens]
        words = self.words(tokens, free, vocabulary)
        most = np.maximum(1, np.rint(self.mlm_probability * free.sum(1))).astype(np.int64)
        sizes = np.stack([np.bincount(row, minlength=length) for row in np.where(free, words, 0)])
        sizes[:, 0] -= (~free).sum(1)
        fits = free & (np.take_along_axis(sizes, words, 1) <= most[:, None])
        # A word's tokens have its number among those drawn, and stand together in the drawn order.
        keys = np.take_along_axis(draw(tokens.size, "chosen").reshape(rows, length), words, 1)
        order = np.lexsort((words, keys, ~fits), axis=-1)
        last = np.take_along_axis(np.take_along_axis(sizes, words, 1), order, 1)
        begins = np.diff(np.take_along_axis(words, order, 1), axis=1, prepend=-1) != 0
        taken = np.cumsum(np.where(begins, last, 0), axis=1) <= most[:, None]
        found = np.zeros((rows, length), bool)
        np.put_along_axis(found, order, taken, 1)
        found &= fits
        return found

    def words(self, tokens: np.ndarray, free: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """(B, T) int64: the number of each token's word in its row; of every token its own, without whole words."""
        import numpy as np

        if not self.whole_word_mask:
            return np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).copy()
        begins, ends = vocabulary.edges
        joined = begins[tokens[:, 1:]] & ends[tokens[:, :-1]] & free[:, 1:] & free[:, :-1]
        return np.cumsum(np.concatenate([np.zeros((len(tokens), 1), bool), ~joined], axis=1), axis=1)

    def arrays(self, batch: Any, draw: Draw, specials: SpecialTokens) -> dict[str, np.ndarray]:
        import numpy as np

        count = self.places(batch.tokens.shape[1])
        # Chosen places first, in their order; what is left of a row's room counts nothing.
        places = np.argsort(batch.weights == 0, axis=1, kind="stable")[:, :count].astype(np.int32)
        weights = np.take_along_axis(batch.weights, places, 1).astype(np.float32)
        targets = np.take_along_axis(batch.targets, places, 1).astype(np.int32)
        return {"places": places, "targets": targets, "loss_weights": weights}

    def elementwise(self, vocab: int) -> ElementwiseOps:
        """Operations per place: the softmax over the vocabulary, and its gradient."""
        return CrossEntropy().elementwise(vocab)

    def build(self, dims: Dims) -> Loss:
        return CrossEntropy().build(dims)

    def measures(self, dims: Dims) -> Loss:
        def right(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            assert outputs.layer is not None, "the head has outputs"
            # A bound on the logits leaves their order as it is.
            logits_BKV = ops.linear(outputs.features, outputs.layer)
            right_BK = logits_BKV.argmax(-1) == inputs["targets"]
            return {"accuracy": (right_BK * inputs["loss_weights"]).sum()}

        return right

    def metrics(self, sums: Mapping[str, float], characters: int) -> tuple[Metric, ...]:
        """Per chosen token: nats, the share of them for which the most probable token is the right one, and e to the
        nats."""
        tokens = int(sums["loss_weights"])
        per_token = sums["loss"] / max(1, tokens)
        return (
            Metric("loss", per_token, "nats/token", better="lower"),
            Metric("accuracy", sums["accuracy"] / max(1, tokens), better="higher"),
            Metric("perplexity", math.exp(min(per_token, 700.0)), better="lower"),
            Metric("tokens", tokens, "tokens"),
        )
