"""Who influences whom in the built graph: every token of a drawn block is changed by itself, and every output compared.

What a mask forbids must change no bit of the outputs; what it allows must show. The graph is that of the plan's own
parts through its device's operations, with its own widths; only a network too large to draw is shortened.
"""

from __future__ import annotations

from typing import Any

from llmspec.compiler.masks import Mask
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.compiler.proofs import Proof
from llmspec.model.device import open_device

BUILT = "the built graph looks where the mask says"
TOKENS, WORDS = 64, 256
"""Places of a drawn block at most, and rows of the vocabulary that are drawn where it is too large."""
FEW, NUMBERS = 1 << 24, 1 << 28
"""Weights that are drawn: so many are soon computed with, and a layer that has more is drawn alone up to the second."""
SHOWN = 0.99
"""Share of the allowed pairs that have to show an influence: one may be rounded away, not many."""


def graph_proof(plan: Plan, relation: Mask | None = None) -> Proof:
    """Of the model under every mask that its phases use; `relation` stands in for those masks where it is given.

    Raises ToolchainError on a CPU without a compiler.
    """
    model, cut = small_enough(plan.model)
    if model is None:
        return Proof(name=BUILT, holds=None, evidence=f"one layer alone has more than {NUMBERS:,} weights")
    masks = sorted({Mask(p.phase.document_mask) for p in plan.phases} | {Mask()})
    told = []
    for mask in masks:
        seen, documents = influences(plan, model, mask)
        wrong, evidence = compared(seen, documents, relation or mask)
        if wrong:
            return Proof(
                name=BUILT,
                holds=False,
                evidence=wrong,
                path=("model", "attention"),
                hint="a part's `build` or the device's operations are at fault, not your spec",
            )
        told.append(f"{'documents apart' if mask.documents else 'blocks'}: {evidence}")
    return Proof(name=BUILT, holds=True, evidence=f"{'; '.join(told)}, by {cut} on {plan.device}")


def small_enough(model: ModelPlan) -> tuple[ModelPlan | None, str]:
    """(the model with as many layers and words as can be drawn or None, that in words)."""

    def shortened(layers: int, vocab: int) -> ModelPlan:
        kept = [t for t in model.tensors if not t.name.startswith("layers.") or int(t.name.split(".")[1]) < layers]
        words = {"embed_tokens.weight", "lm_head.weight"}
        tensors = tuple(t.model_copy(update={"shape": (vocab, *t.shape[1:])}) if t.name in words else t for t in kept)
        return model.model_copy(update={"layers": layers, "vocab": vocab, "tensors": tensors})

    vocab = model.vocab if model.parameters <= FEW else min(model.vocab, WORDS)
    each = shortened(1, vocab).parameters - shortened(0, vocab).parameters
    layers = min(model.layers, max(1, (FEW - shortened(0, vocab).parameters) // max(1, each)))
    if (made := shortened(layers, vocab)).parameters > NUMBERS:
        return None, ""
    words = f" and {vocab} words" if vocab < model.vocab else ""
    return made, f"{layers:,} of {model.layers:,} layers{words}"


def influences(plan: Plan, model: ModelPlan, mask: Mask) -> tuple[Any, Any]:
    """(bool (T, T): whether the output at a place changes with the token at another; documents (T,))."""
    import numpy as np

    open_device(plan.device)
    from tinygrad import Tensor

    from llmspec.backends.backend import backend
    from llmspec.backends.tensors import StaticInputs, tensors_from_numpy, to_numpy
    from llmspec.model.transformer import Transformer, block_context

    length, low, network = min(TOKENS, model.context), backend(plan.device), Transformer(model)
    rng = np.random.default_rng([plan.seed, length])
    documents = np.cumsum(rng.random((1, length)) < 4 / length, axis=1).astype(np.int32)
    if not mask.documents:
        documents = np.zeros_like(documents)
    starts = np.concatenate([[True], documents[0, 1:] != documents[0, :-1]])
    positions = np.arange(length) - np.maximum.accumulate(np.where(starts, np.arange(length), 0))
    weights = tensors_from_numpy(**{t.name: drawn(t, rng) for t in model.tensors})
    tables = tensors_from_numpy(**network.tables())

    def hidden(weights: Any, tables: Any, inputs: Any) -> Tensor:
        view = block_context(length, inputs["spans"], inputs["positions"])
        return network.hidden(low.ops(inputs), {**weights, **tables}, inputs["tokens"], view).realize()

    step, feed = low.jit(hidden), StaticInputs()

    def outputs(tokens: Any) -> Any:
        arrays = {
            "tokens": tokens[None],
            "spans": mask.spans(length, documents),
            "positions": positions[None].astype(np.int32),
        }
        return to_numpy(step(weights, tables, {**feed(**arrays), **low.inputs}))[0]

    tokens = rng.integers(0, model.vocab, length).astype(np.int32)
    first, seen = outputs(tokens), np.zeros((length, length), bool)
    for key in range(length):
        other = tokens.copy()
        other[key] = (other[key] + 1 + rng.integers(0, max(1, model.vocab - 1))) % model.vocab
        seen[:, key] = (outputs(other) != first).any(-1)
    return seen, documents[0]


def drawn(tensor: Any, rng: Any) -> Any:
    """Numbers of a size that keeps every part at work: weights that start as zeros would hide what they do."""
    import numpy as np

    numbers = rng.standard_normal(tensor.shape, np.float32)
    scale = {"norm": 0.2, "bias": 0.3, "embedding": 0.7}.get(tensor.role, tensor.shape[-1] ** -0.5)
    return numbers * np.float32(scale) + np.float32(tensor.role == "norm")


def compared(seen: Any, documents: Any, mask: Mask) -> tuple[str, str]:
    """(what is wrong or '', evidence): observed influences against the relation."""
    import numpy as np

    place = np.arange(len(documents))
    allowed = np.broadcast_to(mask.allows(place[:, None], place[None], documents[:, None], documents[None]), seen.shape)
    if len(found := np.argwhere(seen & ~allowed)):
        query, key = found[0]
        return (
            f"changing the token at place {key} of document {documents[key]} changes the output at place {query} "
            f"of document {documents[query]}"
        ), ""
    shown = int((seen & allowed).sum())
    if shown < SHOWN * allowed.sum() or not seen.diagonal().all():
        query, key = np.argwhere(allowed & ~seen)[0]
        return f"the output at place {query} does not change with the token at place {key}, which it may see", ""
    return "", (
        f"{int((~allowed).sum()):,} forbidden pairs of {seen.size:,} changed no bit, {shown:,} of "
        f"{int(allowed.sum()):,} allowed ones showed"
    )
