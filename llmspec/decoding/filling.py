"""Masked places of a text, filled with the tokens that a model finds most probable there.

Shape letters: T tokens, K masked places, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from llmspec.backends import owner
from llmspec.backends.backend import Graphs
from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler.masks import range_inputs
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError
from llmspec.decoding.chain import probabilities
from llmspec.model.buckets import SHORTEST
from llmspec.model.steps import Tensors
from llmspec.model.transformer import Transformer, block_context, graph_key, states_at
from llmspec.parts.heads.lm import LM
from llmspec.parts.ops import WeightLayout
from llmspec.parts.tokenizers.base import Codec, Continuing

MASK = "[MASK]"
"""How a prompt spells the mask token, whatever the tokenizer calls it; that name is understood, too."""
FEWEST = 4
"""Masked places that a graph reads, at least."""
TOP = 5
"""Candidates of a place, where nobody says how many."""


@dataclass(frozen=True)
class Candidate:
    """A token that may stand at a masked place."""

    token: int
    text: str
    """As it stands behind what is before it: with its space, where tokens have one."""
    probability: float


@dataclass(frozen=True)
class Filled:
    """A text with masked places, and what a model would put there."""

    text: str
    """With the most probable token at every place."""
    places: tuple[tuple[Candidate, ...], ...]
    """Of each masked place, in their order: the most probable tokens, best first."""
    tokens: tuple[int, ...]
    """What the model has read."""


@dataclass(frozen=True)
class MaskedText:
    """A text with masked places, as a model reads it."""

    pieces: tuple[str, ...]
    """What stands before, between and behind the masked places."""
    tokens: tuple[int, ...]
    """(T,) with the special tokens around the text."""
    places: tuple[int, ...]
    """(K,) where the mask token stands."""


def masked_text(codec: Codec, text: str, framed: bool = False) -> MaskedText:
    """A prompt as tokens; `framed` where the model was trained on text between special tokens. White space before a
    mask belongs to the token that is to stand there, where tokens of this tokenizer begin with their space.

    Raises LlmspecError where the tokenizer has no mask token, or the text no masked place.
    """
    special = codec.specials
    if special.mask is None:
        raise LlmspecError(
            "this model's tokenizer has no mask token", special.advice("mask"), "there would be no place to fill"
        )
    name = next(spelling for spelling, token in special.items() if token == special.mask)
    pieces = re.split(f"{re.escape(MASK)}|{re.escape(name)}", text)
    if len(pieces) == 1:
        raise LlmspecError(
            f"the prompt has no {MASK}",
            f"write {MASK} where a token is to be filled in, such as 'The {MASK} is a large animal.'",
            "this model writes no text: it fills the masked places of one",
        )
    if spaced(codec):
        pieces[:-1] = [piece.removesuffix(" ") for piece in pieces[:-1]]
    parts = codec.encode([pieces[0], *map(Continuing, pieces[1:])])
    # Tokenizers of others frame a text; in training texts of ours stand behind the token that ends the one before.
    begins = () if special.bos is None else (special.bos,)
    before, after = (special.before, special.after) if special.named or framed else (begins, ())
    tokens, places = [*before, *parts[0]], list[int]()
    for part in parts[1:]:
        places.append(len(tokens))
        tokens += [special.mask, *part]
    return MaskedText(tuple(pieces), (*tokens, *after), tuple(places))


def masked_row(codec: Codec, tokens: Sequence[int], places: Sequence[int]) -> MaskedText:
    """Tokens of a text of which those at some places are masked."""
    edges = [-1, *places, len(tokens)]
    spans = [tokens[begin + 1 : end] for begin, end in pairwise(edges)]
    pieces = [b"".join(map(codec.token_bytes, span)).decode(errors="replace") for span in spans]
    mask = codec.specials.need("mask")
    masked = [mask if i in set(places) else token for i, token in enumerate(tokens)]
    return MaskedText((pieces[0].lstrip(" "), *pieces[1:]), tuple(masked), tuple(places))


def token_text(codec: Codec, token: int, begins: bool = False) -> str:
    """What a token adds to a text, or begins one with; bytes that are no whole character become U+FFFD."""
    return codec.token_bytes(token, begins=begins).decode(errors="replace")


def spaced(codec: Codec) -> bool:
    """Whether tokens begin with the space before them."""
    return any(
        len(codec.token_bytes(token)) > 1 and codec.token_bytes(token)[:1] == b" " for token in range(codec.vocab)
    )


def filling_head(model: ModelPlan) -> str | None:
    """The head whose logits tell a token from what stands on both sides; None where tokens see no later ones."""
    if model.encoder is not None or any(block.mask.causal or block.mask.has_prefix for block in model.decoder.blocks):
        return None
    return next((name for name, head in model.heads.items() if isinstance(head, LM)), None)


class Filler:
    """A model that sees both sides, with graphs for texts of any length."""

    def __init__(
        self,
        model: ModelPlan,
        backend: Backend,
        weights: Tensors,
        codec: Codec,
        layouts: Mapping[str, WeightLayout] = MappingProxyType({}),
    ) -> None:
        """`layouts` are those of weights that stay quantised, by name."""
        head = filling_head(model)
        assert head is not None, "asked before"
        self._plan, self._backend, self._weights, self._codec, self._head = model, backend, weights, codec, head
        self._model = Transformer(model, layouts)
        self._tables = tensors_from_numpy(**self._model.tables())
        key = graph_key(model, layouts, "fill", head)
        self._graphs = Graphs(lambda: backend.jit(self._forward, key))

    def fill(self, given: MaskedText, top: int = TOP) -> Filled:
        """The most probable tokens of every masked place, special tokens left out: no text has those.

        Raises LlmspecError where the text is longer than the model's context.
        """
        import numpy as np

        check_length(given, self._plan)
        p = probabilities(self.logits(given.tokens, given.places)[:, : self._codec.vocab])
        p[:, [i for i in self._codec.specials.values() if i < p.shape[1]]] = -1
        places, text = list[tuple[Candidate, ...]](), given.pieces[0]
        for row, behind in zip(p, given.pieces[1:], strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            spelled = [token_text(self._codec, int(i), begins=not text) for i in best]
            found = [Candidate(int(i), word, float(row[i])) for i, word in zip(best, spelled, strict=True)]
            places.append(tuple(found))
            text += found[0].text + behind
        return Filled(text, tuple(places), given.tokens)

    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> Any:
        """(K, V) float32 at some places of a text (T,)."""
        import numpy as np

        length, count = len(tokens), len(places)
        rows = min(self._plan.context, max(SHORTEST, 1 << (length - 1).bit_length()))
        room = max(FEWEST, 1 << (count - 1).bit_length())
        ids, at = np.zeros((1, rows), np.int32), np.zeros((1, room), np.int32)
        ids[0, :length], at[0, :count] = tokens, places
        ranges = range_inputs(self._plan, False, rows, filled_B=[length])
        with owner.turn():
            inputs = {**tensors_from_numpy(tokens=ids, places=at, **ranges), **self._backend.inputs}
            return np.array(self._graphs[rows, room].array(self._weights, self._tables, inputs)[0, :count])

    def _forward(self, weights: Any, tables: Any, inputs: Any) -> Any:
        ops, tensors = self._backend.ops(inputs), {**weights, **tables}
        hidden = self._model.hidden(ops, tensors, inputs, block_context(inputs))
        chosen = states_at(ops, hidden, inputs["places"])
        return self._model.head(ops, tensors, chosen, self._head).contiguous().realize()


def check_length(given: MaskedText, model: ModelPlan) -> None:
    """Raises LlmspecError where a text is longer than the model's context."""
    if len(given.tokens) > model.context:
        raise LlmspecError(
            f"this prompt has {len(given.tokens):,} tokens, and the model's context is {model.context:,}",
            f"shorten it by {len(given.tokens) - model.context:,} or more tokens",
            "its end would not be read",
        )


def listed(place: Sequence[Candidate]) -> str:
    """`comet 41%, star 5%`: candidates of a place in a line."""
    return ", ".join(f"{shown(candidate.text)} {candidate.probability:.0%}" for candidate in place)


def shown(text: str) -> str:
    """A token in a line, without the space around it; one that is nothing else as Python writes it."""
    return text.strip() or repr(text)
