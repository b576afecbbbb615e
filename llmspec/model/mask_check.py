"""Who influences whom in the built graph: every token of a drawn block is changed by itself, and every output compared.

What a mask forbids must change no bit of the outputs; what it allows must show. The graph is that of the plan's own
parts through its device's operations, with its own widths; only a network too large to draw is shortened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llmspec.compiler import walk
from llmspec.compiler.checks import Check
from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.masks import ENCODER, Relation, encoder_inputs, masks_of, range_inputs
from llmspec.compiler.plan import BlockPlan, ModelPlan, Plan, TensorPlan
from llmspec.model.device import open_device
from llmspec.parts.base import Init

BUILT = "the built graph attends where the mask allows"
TOKENS, WORDS = 64, 256
"""Places of a drawn block at most, and rows of the vocabulary that are drawn where it is too large."""
FEW, NUMBERS = 1 << 24, 1 << 28
"""Weights that are drawn: so many are soon computed with, and a layer that has more is drawn alone up to the second."""
WINDOW, PADDED = 8, 5
"""Windows are narrowed to so many tokens, and so many tokens of a drawn block are padding."""
SHOWN = 0.99
"""Share of the allowed pairs that have to show an influence: one may be rounded away, not many."""


def graph_check(plan: Plan, relation: Relation | None = None) -> Check:
    """Of the model with documents together and, where a phase keeps them apart, apart; `relation` stands in for that of
    every block where it is given.

    Raises ToolchainError on a CPU without a compiler.
    """
    model, cut = small_enough(plan.model)
    if model is None:
        return Check(name=BUILT, holds=None, evidence=f"one layer alone has more than {NUMBERS:,} weights")
    told = []
    if model.encoder is not None:
        checked = source_check(plan, model)
        if isinstance(checked, Check):
            return checked
        told += checked
    for documents in sorted({documents_apart(model, p.phase) for p in plan.phases} | {False}):
        drawn_block = Drawn.of(plan, model, documents)
        allowed = drawn_block.allowed(model, relation)
        wrong, evidence = compared(influences(plan, model, drawn_block), drawn_block.documents, allowed)
        if wrong:
            return at_fault(wrong, "attention")
        told.append(f"{'documents apart' if documents else 'blocks'}: {evidence}")
    return Check(name=BUILT, holds=True, evidence=f"{'; '.join(told)}, by {cut} on {plan.device}")


def at_fault(wrong: str, key: str) -> Check:
    """The check of a graph that attends otherwise."""
    hint = "a part's `build` or the device's operations are at fault, not your spec"
    return Check(name=BUILT, holds=False, evidence=wrong, path=("model", key), hint=hint)


def source_check(plan: Plan, model: ModelPlan) -> Check | list[str]:
    """Of a model with an encoder: which of its tokens influence which of its states, and the decoder's outputs."""
    import numpy as np

    assert model.encoder is not None
    alone = model.model_copy(update={"stacks": (model.encoder,), "context": model.encoder_context})
    source = replace(Drawn.of(plan, alone, False), prefix=np.zeros(min(TOKENS, model.encoder_context), bool))
    filled, length, tokens = source.filled, len(source.documents), min(TOKENS, model.context)
    own, cross = source_influences(plan, model, source, tokens)
    told = []
    within = source.allowed(alone, None)
    within[filled:] = within[:, filled:] = False  # what padding makes of itself is read by nobody
    own[filled:] = False
    np.fill_diagonal(own[filled:, filled:], True)
    np.fill_diagonal(within[filled:, filled:], True)
    seen = np.broadcast_to(np.arange(length) < filled, (tokens, length))
    pairs = (("encoder", own, within, "encoder"), ("cross-attention", cross, seen, "cross_attention"))
    for name, found, allowed, key in pairs:
        wrong, evidence = compared(found, np.zeros(max(tokens, length), int), allowed)
        if wrong:
            return at_fault(f"{name}: {wrong}", key)
        told.append(f"{name}: {evidence}")
    return told


def source_influences(plan: Plan, model: ModelPlan, source: Drawn, tokens: int) -> tuple[Any, Any]:
    """(bool (S, S), bool (T, S)): whether a state of the encoder, and an output of the decoder, changes with each token
    that the encoder reads."""
    import numpy as np

    length = len(source.documents)
    step, given = built(plan, model, tokens, source)
    first = step(given)
    own, cross = np.zeros((length, length), bool), np.zeros((tokens, length), bool)
    for key in range(length):
        other = {**given, f"{ENCODER}tokens": changed(plan, model, given[f"{ENCODER}tokens"], key)}
        hidden, states = step(other)
        own[:, key], cross[:, key] = (states != first[1]).any(-1), (hidden != first[0]).any(-1)
    return own, cross


def changed(plan: Plan, model: ModelPlan, tokens: Any, key: int) -> Any:
    """The tokens (1, T) with another one at a place; a function of the plan's seed."""
    import numpy as np

    other, rng = tokens.copy(), np.random.default_rng([plan.seed, key])
    other[0, key] = (other[0, key] + 1 + rng.integers(0, max(1, model.vocab - 1))) % model.vocab
    return other


def small_enough(model: ModelPlan) -> tuple[ModelPlan | None, str]:
    """(the model with as many layers and rows of the vocabulary as can be drawn or None, that in words)."""
    vocab = model.vocab if model.parameters <= FEW else min(model.vocab, WORDS)
    fixed = shortened(model, 0, vocab).parameters
    each = shortened(model, 1, vocab).parameters - fixed
    layers = min(model.layers, max(1, (FEW - fixed) // max(1, each)))
    if (made := shortened(model, layers, vocab)).parameters > NUMBERS:
        return None, ""
    rows = f" and {vocab} rows of the vocabulary" if vocab < model.vocab else ""
    masks = [b.mask for stack in model.stacks for b in stack.blocks]
    windows = [m.window for m in masks if m.window is not None and m.window > WINDOW]
    narrow = f", with windows of {WINDOW} tokens" if windows else ""
    return made, f"{made.layers:,} of {model.layers:,} layers{rows}{narrow}"


def shortened(model: ModelPlan, layers: int, vocab: int) -> ModelPlan:
    """The model with its first layers, one of each kind of block among them where they are enough, and with windows
    that a drawn block is longer than."""

    def narrow(block: BlockPlan) -> BlockPlan:
        window = block.mask.window
        mask = block.mask.model_copy(update={"window": window and min(window, WINDOW)})
        return block.model_copy(update={"mask": mask})

    stacks = []
    for stack in model.stacks:
        order = stack.order[:layers]
        if len(set(order)) < len(stack.blocks) <= layers:
            order = (*range(len(stack.blocks)), *order[len(stack.blocks) :])
        blocks = tuple(narrow(block) for block in stack.blocks)
        stacks.append(stack.model_copy(update={"order": order, "blocks": blocks}))
    made = model.model_copy(update={"stacks": tuple(stacks), "vocab": vocab})
    table = tuple(TensorPlan(name=n, shape=t.shape, role=t.role, init=Init()) for n, t in walk.tensor_specs(made))
    return made.model_copy(update={"tensors": table})


@dataclass(frozen=True)
class Drawn:
    """A block of tokens whose influences are looked at: one row, its last tokens padding where a mask asks for that."""

    documents: Any
    """(T,) int32 number of each token's document."""
    prefix: Any
    """(T,) bool: what each document begins with that is a prefix."""
    filled: int
    """Tokens that are no padding."""
    apart: bool
    """Whether documents are kept apart."""

    @classmethod
    def of(cls, plan: Plan, model: ModelPlan, apart: bool) -> Drawn:
        """A function of the plan's seed."""
        import numpy as np

        length = min(TOKENS, model.context)
        rng = np.random.default_rng([plan.seed, length])
        documents = np.cumsum(rng.random(length) < 4 / length).astype(np.int32) * int(apart)
        padded = 0 if all(m.causal for m in masks_of(model).values()) else min(PADDED, length - 1)
        documents[length - padded :] += int(apart)
        start = np.maximum.accumulate(np.where(np.diff(documents, prepend=-1) != 0, np.arange(length), 0))
        return cls(documents, np.arange(length) - start < 3, length - padded, apart)

    @property
    def positions(self) -> Any:
        """(T,) int32: place in the document."""
        import numpy as np

        place = np.arange(len(self.documents))
        starts = np.diff(self.documents, prepend=-1) != 0
        return (place - np.maximum.accumulate(np.where(starts, place, 0))).astype(np.int32)

    def allowed(self, model: ModelPlan, stand_in: Relation | None) -> Any:
        """bool (T, T): which token may influence which output, through all layers."""
        import numpy as np

        place, reach = np.arange(len(self.documents)), np.eye(len(self.documents), dtype=bool)
        padding = (place[:, None] < self.filled) & (place[None] >= self.filled)
        stack = model.decoder
        for kind in stack.order:
            relation = stand_in or Relation(stack.blocks[kind].mask, self.apart)
            own, prefix = self.documents, self.prefix
            seen = relation.allows(place[:, None], place[None], own[:, None], own[None], prefix[None])
            reach = ((np.broadcast_to(seen, reach.shape) & ~padding).astype(int) @ reach.astype(int)) > 0
        return reach


def influences(plan: Plan, model: ModelPlan, block: Drawn) -> Any:
    """bool (T, T): whether the output at a place changes with the token at another."""
    import numpy as np

    length = len(block.documents)
    step, given = built(plan, model, length, None, block)
    (first, *_), seen = step(given), np.zeros((length, length), bool)
    for key in range(length):
        outputs, *_ = step({**given, "tokens": changed(plan, model, given["tokens"], key)})
        seen[:, key] = (outputs != first).any(-1)
    return seen


def built(
    plan: Plan, model: ModelPlan, tokens: int, source: Drawn | None, block: Drawn | None = None
) -> tuple[Callable[[dict[str, Any]], tuple[Any, ...]], dict[str, Any]]:
    """(f(arrays) -> outputs of the decoder (T, D) and states of the encoder (S, D) if any; arrays to begin with):
    the graph of drawn weights over a drawn row."""
    import numpy as np

    open_device(plan.device)
    from llmspec.backends.backend import backend
    from llmspec.backends.tensors import StaticInputs, tensors_from_numpy, to_numpy
    from llmspec.model.transformer import Transformer, block_context

    low, network = backend(plan.device), Transformer(model)
    rng = np.random.default_rng([plan.seed, tokens, 1])
    weights = tensors_from_numpy(**{t.name: drawn(t, rng) for t in model.tensors})
    tables = tensors_from_numpy(**network.tables())

    # Which tokens share an expert decides how its products are summed in training, and so the last bits of each.
    shared = any(b.mlp.routes for stack in model.stacks for b in stack.blocks)

    def hidden(weights: Any, tables: Any, inputs: Any) -> Any:
        ops, named = low.ops(inputs, by_sequence=shared), {**weights, **tables}
        found = [network.hidden(ops, named, inputs, block_context(inputs))]
        if model.encoder is not None:
            found.append(network.encoded(ops, named, inputs))
        return tuple(x.realize() for x in found)

    step, feed = low.jit(hidden), StaticInputs()

    def outputs(arrays: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(to_numpy(x)[0] for x in step(weights, tables, {**feed(**arrays), **low.inputs}))

    block = block or Drawn(np.zeros(tokens, np.int32), np.zeros(tokens, bool), tokens, False)
    given = {"tokens": rng.integers(0, model.vocab, (1, tokens)).astype(np.int32), "positions": block.positions[None]}
    given |= range_inputs(model, block.apart, tokens, block.documents[None], [block.filled], block.prefix[None])
    if model.encoder is not None:
        length = len(source.documents) if source else min(TOKENS, model.encoder_context)
        given[f"{ENCODER}tokens"] = rng.integers(0, model.vocab, (1, length)).astype(np.int32)
        given |= encoder_inputs(model, [source.filled if source else length], length, tokens)
    return outputs, given


def drawn(tensor: Any, rng: Any) -> Any:
    """Numbers of a size that keeps every part at work: weights that start as zeros would hide what they do."""
    import numpy as np

    numbers = rng.standard_normal(tensor.shape, np.float32)
    scale = {"norm": 0.2, "bias": 0.3, "embedding": 0.7}.get(tensor.role, tensor.shape[-1] ** -0.5)
    return numbers * np.float32(scale) + np.float32(tensor.role == "norm")


def compared(seen: Any, documents: Any, allowed: Any) -> tuple[str, str]:
    """(what is wrong or '', evidence): observed influences against those that the masks allow."""
    import numpy as np

    if len(found := np.argwhere(seen & ~allowed)):
        query, key = found[0]
        return (
            f"changing the token at position {key} of document {documents[key]} changes the output at position {query} "
            f"of document {documents[query]}"
        ), ""
    shown = int((seen & allowed).sum())
    if shown < SHOWN * allowed.sum() or not (seen | ~allowed).diagonal().all():
        query, key = np.argwhere(allowed & ~seen)[0]
        return f"the output at position {query} does not change with the token at position {key}, which it may see", ""
    return "", (
        f"{int((~allowed).sum()):,} forbidden pairs of {seen.size:,} changed no bit, {shown:,} of "
        f"{int(allowed.sum()):,} allowed ones showed"
    )
