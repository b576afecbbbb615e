"""Which query may look at which key in a batch: a block's mask, within documents, and never padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmspec.compiler import walk
from llmspec.compiler.plan import ModelPlan, StackPlan
from llmspec.parts.masks import Mask
from llmspec.parts.masks.causal import Causal

RANGES = "ranges:"
"""What the names of graph inputs that hold ranges begin with; the mask's name follows."""
ENCODER = "encoder_"
"""What stands before the names of an encoder's masks, and of what else it reads."""
CROSS = RANGES + "cross"
"""The ranges of the encoder's tokens that the decoder's see."""


class Relation(NamedTuple):
    """A relation on (query, key) places of a block of tokens and their documents."""

    mask: Mask = Causal()
    documents: bool = False
    """Whether a key must belong to the query's document."""

    def allows(
        self, query: Any, key: Any, query_document: Any = None, key_document: Any = None, key_in_prefix: Any = False
    ) -> Any:
        """Broadcasts over its arguments; True where the query may see the key."""
        seen = self.mask.allows(query, key, key_in_prefix)
        return seen & (query_document == key_document) if self.documents else seen

    def ranges(self, tokens: int, documents_BT: Any = None, filled_B: Any = None, prefix_BT: Any = None) -> Any:
        """The relation as keys first … end - 1 of each query: int32 (B or 1, T, 2), a numpy array.

        That is all of the relation, since a document's tokens stand side by side in a block. `filled_B` says how many
        tokens of each row are no padding, which stands at the end and which no token sees; `prefix_BT` (bool) tells
        what a document's prefix is, which it begins with.
        """
        import numpy as np

        place = np.arange(tokens, dtype=np.int32)[None]
        begin, end = np.zeros_like(place), np.full_like(place, tokens)
        if self.documents:
            starts = np.ones(documents_BT.shape, bool)
            starts[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
            begin = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
            ends = np.where(np.roll(starts, -1, axis=1), place + 1, tokens)
            ends[:, -1] = tokens
            end = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
        prefix_end = begin
        if prefix_BT is not None and self.mask.has_prefix:
            counted = np.cumsum(np.pad(prefix_BT, ((0, 0), (1, 0))), axis=1)
            prefix_end = begin + np.take_along_axis(counted, end + 0 * counted[:, 1:], axis=1)
            prefix_end -= np.take_along_axis(counted, begin + 0 * counted[:, 1:], axis=1)
        first = begin if self.mask.window is None else np.maximum(begin, place - self.mask.window + 1)
        last = self.mask.ends(place, end, prefix_end)
        if not self.mask.causal and filled_B is not None:
            filled_B1 = np.asarray(filled_B)[:, None]
            last = np.where(place < filled_B1, np.minimum(last, filled_B1), last)
        return np.stack(np.broadcast_arrays(first, last), axis=-1).astype(np.int32)


def masks_of(model: ModelPlan, stack: StackPlan | None = None) -> dict[str, Mask]:
    """The masks of a stack's blocks by name, each once; `stack` None: of the decoder's."""
    return {block.mask.name: block.mask for block in (stack or model.decoder).blocks}


def cross_ranges(filled_B: Any, tokens: int) -> Any:
    """Which of the encoder's tokens the decoder's see, as first … end - 1: int32 (B, T, 2), a numpy array. All of the
    `filled_B` that are no padding, which stands at the end."""
    import numpy as np

    found = np.zeros((len(filled_B), tokens, 2), np.int32)
    found[:, :, 1] = np.asarray(filled_B)[:, None]
    return found


def encoder_inputs(model: ModelPlan, filled_B: Any, encoder_tokens: int, tokens: int) -> dict[str, Any]:
    """What a graph reads beside the texts of `filled_B` tokens of `encoder_tokens` that an encoder reads and the
    decoder's `tokens` look at, by name; nothing for a model without an encoder."""
    if model.encoder is None:
        return {}
    own = {
        f"{RANGES}{ENCODER}{name}": Relation(mask).ranges(encoder_tokens, None, filled_B)
        for name, mask in masks_of(model, model.encoder).items()
    }
    beside = {
        ENCODER + name: array for name, array in padding_inputs(model, model.encoder, filled_B, encoder_tokens).items()
    }
    return {**own, **beside, CROSS: cross_ranges(filled_B, tokens)}


def padding_inputs(model: ModelPlan, stack: StackPlan, filled_B: Any, tokens: int) -> dict[str, Any]:
    """What tells a stack's padding, which stands behind `filled_B` of `tokens`, where attention's ranges do not: int32
    (B, T) arrays by name. `filled` is 0 for it, where a part adds a loss of the tokens that it reads; `positions` are
    the last token's, where angles hang on a text's length."""
    import numpy as np

    place, filled_B1, found = np.arange(tokens, dtype=np.int32), np.asarray(filled_B)[:, None], dict[str, Any]()
    if walk.adds_losses(stack):
        found["filled"] = (place < filled_B1).astype(np.int32)
    if walk.follows_length(model, stack):
        found["positions"] = np.minimum(place, np.maximum(filled_B1, 1) - 1).astype(np.int32)
    return found


def range_inputs(
    model: ModelPlan,
    documents: bool,
    tokens: int,
    documents_BT: Any = None,
    filled_B: Any = None,
    prefix_BT: Any = None,
) -> Mapping[str, Any]:
    """The ranges of every mask of a model, by the names that graphs read them under: int32 (B or 1, T, 2) arrays."""
    return {
        RANGES + name: Relation(mask, documents).ranges(tokens, documents_BT, filled_B, prefix_BT)
        for name, mask in masks_of(model).items()
    }


def decoding_ranges(model: ModelPlan, places: Sequence[int]) -> dict[str, Any]:
    """The same of one query a row, at its place after all keys that its cache holds: int32 (B, 1, 2) arrays.

    What came before is all that a token sees that is drawn; the prefix is part of it.
    """
    import numpy as np

    seen = {name: decoding_range(mask, places) for name, mask in masks_of(model).items()}
    return {RANGES + name: np.stack(ends, axis=-1, dtype=np.int32)[:, None] for name, ends in seen.items()}


def decoding_range(mask: Mask, places: Sequence[int]) -> tuple[list[int], list[int]]:
    """The first keys and the ends of one mask's ranges in `decoding_ranges`."""
    ends = [place + 1 for place in places]
    return [0 if mask.window is None else max(0, end - mask.window) for end in ends], ends


def unsupervised_prefix(documents_BT: Any, weights_BT: Any) -> Any:
    """bool (B, T): what each document begins with up to the first token whose target counts in the loss."""
    import numpy as np

    starts = np.ones(documents_BT.shape, bool)
    starts[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    place = np.arange(documents_BT.shape[1])
    begin = np.maximum.accumulate(np.where(starts, place, 0), axis=1)
    before = np.cumsum(np.pad(weights_BT > 0, ((0, 0), (1, 0))), axis=1)
    return before[:, :-1] == np.take_along_axis(before, begin, axis=1)
