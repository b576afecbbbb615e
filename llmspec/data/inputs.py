"""Packed blocks as the arrays that a graph reads: exactly those that the plan declares."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmspec.compiler.inputs import MEMBERS, NONE, declared_inputs, documents_apart
from llmspec.compiler.lengths import shortened
from llmspec.compiler.masks import ENCODER, encoder_inputs, masks_of, padding_inputs, range_inputs, unsupervised_prefix
from llmspec.compiler.others import Others, arrays_beside
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import RunError
from llmspec.data.documents import answers, members
from llmspec.data.layout import Batch, random_bits
from llmspec.data.rows import cut
from llmspec.parts.objectives.base import Draw
from llmspec.parts.phases import Phase
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.parts.tokenizers.words import Vocabulary

VALIDATION = "validation"
"""The first name of a place among batches that are validated with."""
Arrays = dict[str, np.ndarray]
"""Inputs of a graph by name. `loss_weights` as they count: a step divides them by their sum over its passes."""


class BatchInputs:
    """Makes the arrays of a phase's batches."""

    def __init__(
        self,
        model: ModelPlan,
        phase: Phase,
        specials: SpecialTokens,
        seed: tuple[object, ...],
        codec: Codec | None = None,
        others: Others = NONE,
    ) -> None:
        """`specials` are the tokenizer's special tokens; `seed` is what an objective draws from, beside the place;
        `codec` is the tokenizer, None where tokens are no text; `others` read the same tokens."""
        self._model, self._phase, self._specials, self._seed = model, phase, specials, seed
        self._vocabulary = Vocabulary(specials, model.vocab) if codec is None else Vocabulary.of(codec)
        self._declared, self._apart = declared_inputs(model, phase, others), documents_apart(model, phase)
        self._others = others
        self._pooling = getattr(model.heads[phase.objective.head], "pooling", "mean")
        self._prefixed = any(mask.has_prefix for mask in masks_of(model).values())
        self._codec, self._shorter = codec, dict[int, BatchInputs]()

    def of_length(self, length: int) -> BatchInputs:
        """The same for rows of so many tokens, of which a pass has as many more as they are shorter."""
        if length == self._model.context:
            return self
        if length not in self._shorter:
            short = shortened(self._model, self._phase, length)
            self._shorter[length] = BatchInputs(*short, self._specials, self._seed, self._codec, self._others)
        return self._shorter[length]

    def cut(self, batch: Batch) -> Batch:
        """A batch of whole rows as rows of this length."""
        return cut(batch, self._model.context, self._apart)

    def __call__(self, batch: Batch, *place: object) -> Arrays:
        """The inputs of a batch that stands at `place` (step and pass, or what else names it); as `made` raises."""
        return self.made(self.asked(batch, *place), *place)

    def asked(self, batch: Batch, *place: object) -> Batch:
        """The batch that stands at `place` as the phase's objective asks it."""
        found: Batch = self._phase.objective.asked(batch, self._draw(place), self._vocabulary)
        return found

    def made(self, batch: Batch, *place: object) -> Arrays:
        """The inputs of a batch as `asked` gives it.

        Raises RunError where a token id is none of the model's, and where an objective makes what it does not declare.
        """
        arrays: dict[str, Any] = {"tokens": batch.tokens}
        arrays |= self._phase.objective.arrays(batch, self._draw(place), self._specials)
        weights, tokens = arrays["loss_weights"], batch.tokens.shape[1]
        if MEMBERS in self._declared:
            documents = self._declared[MEMBERS].shape[1]
            summed = self._phase.objective.sums_tokens
            arrays[MEMBERS] = answers(batch, documents) if summed else members(batch, documents, self._pooling)
        prefix = unsupervised_prefix(batch.documents, weights) if self._prefixed else None
        arrays |= arrays_beside(self._others, self._apart, tokens, batch.documents, batch.filled, prefix)
        arrays |= range_inputs(self._model, self._apart, tokens, batch.documents, batch.filled, prefix)
        if self._model.encoder is not None:
            assert batch.encoder_tokens is not None, "the layout of a model with an encoder makes pairs of texts"
            arrays[f"{ENCODER}tokens"] = batch.encoder_tokens
            length = batch.encoder_tokens.shape[1]
            arrays |= encoder_inputs(self._model, batch.encoder_filled, length, tokens)
        arrays |= padding_inputs(self._model, self._model.decoder, batch.filled, tokens)
        if "filled" in self._declared:
            arrays["filled"] = (np.arange(tokens) < batch.filled[:, None]).astype(np.int32)
        if self._apart:
            arrays["positions"] = batch.positions
        self._check(arrays)
        return arrays

    def _draw(self, place: tuple[object, ...]) -> Draw:
        """Of what is validated, the same whatever the seed and the phase: what differs then are the models."""
        seed = () if place[:1] == (VALIDATION,) else self._seed
        return lambda n, *names: random_bits(n, *seed, *place, *names)

    def _check(self, arrays: Arrays) -> None:
        made = {name: (a.shape, a.dtype.name) for name, a in arrays.items()}
        wanted = {name: (spec.shape, spec.dtype) for name, spec in self._declared.items()}
        if made != wanted:
            name = next(n for n in {**wanted, **made} if made.get(n) != wanted.get(n))
            raise RunError(
                f"the objective {self._phase.objective.kind} declares {name} as {wanted.get(name)} and makes "
                f"{made.get(name)}",
                "the part's `inputs` and `arrays` are at fault, not your spec",
            )
        for name, spec in self._declared.items():
            if spec.ids:
                read_ids(arrays[name], self._model.vocab)


def read_ids(ids: np.ndarray, vocab: int) -> None:
    """Raises RunError where an array of ids that was read from data has one that is not in 0 … vocab - 1."""
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab:
        raise RunError(
            f"the data hold token id {low if low < 0 else high}, and the model's ids are 0 … {vocab - 1}",
            "the tokens were made by another tokenizer, or their file is damaged: delete the run's cached "
            "tokens, and they are rebuilt",
            "the model would be trained on wrong tokens",
        )
