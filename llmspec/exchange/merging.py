"""An adapter merged into the weights that it stands beside: measured before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmspec.compiler.linear_layers import without_adapter
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.problems import LlmspecError, Problem, one_of
from llmspec.core.quantised import as_float32, quantise
from llmspec.core.weight_types import TYPES
from llmspec.decoding.language_model import LanguageModel, here
from llmspec.decoding.quantising import FLOAT, quantised
from llmspec.exchange import held_out
from llmspec.exchange.held_out import HeldOut
from llmspec.formats.bases import folder_of, model_in, whole_weights
from llmspec.formats.foreign import ForeignModel
from llmspec.formats.opening import stored_model
from llmspec.formats.peft import PEFTFolder
from llmspec.parts.base import Frozen
from llmspec.parts.others import StartModel
from llmspec.runs.model_folder import ModelFolder, save_model

MERGED = (FLOAT, "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k")
"""Types that merged matrices are written in."""
SAID, TOO_MUCH = 0.05, 0.5
"""Shares of what was learned: a larger loss is said, and one that is larger still is refused."""
EXACT = 1e-3
"""Logits of merged weights of float32 are no further from the adapter's, relative to the largest."""
Progress = Callable[[str, float, float], None]


class Learned(Frozen):
    """Nats per token of one text: of the model alone, of model and adapter, and of what is written."""

    text: str
    """What was measured on."""
    tokens: int
    base: float
    adapted: float
    merged: float

    @property
    def lost(self) -> float | None:
        """The share of what the adapter had gained that the merged weights have not; None where it gained nothing."""
        gained = self.base - self.adapted
        return (self.merged - self.adapted) / gained if gained > 0 else None


class Merged(Frozen):
    """What `merge` has written, and what was measured before."""

    path: str
    phase: str
    type: str
    """The type of the merged matrices."""
    layers: int
    """How many were merged."""
    logits: float
    """The largest difference of a logit between what is written and the model with its adapter."""
    changed: float
    """The same between the model alone and the model with its adapter."""
    learned: Learned | None
    unmeasured: str
    """Why `learned` is not known; '' where it is."""
    notices: tuple[str, ...]


def merge(
    path: Path,
    out: Path,
    type: str = FLOAT,
    phase: str | None = None,
    text: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Merged:
    """Merges the adapter of a run, or of a saved model, into the model's weights, and writes a model without one.

    Args:
        path: the run, or the folder of a saved model.
        out: the new folder.
        type: of the merged matrices, one of MERGED; those whose rows are no whole blocks of it are float32. Others stay
            as they lie.
        phase: the phase whose adapter is meant; the last one if None.
        text: a file on which the loss is measured; the run's validation text if None.
        progress: is told what is done.

    Raises LlmspecError for another type, where there is no adapter, where merged weights give other logits, and where
    the type would lose most of what was learned, or has few bits and nothing can say so: nothing is written then.
    """
    folder = stored_model(path)
    written = folder.plan()
    codec = folder.tokenizer(written)
    name, weights, notices = whole_weights(folder, written, phase)
    plan = written.of(name)
    check(path, plan.model, name, type)
    progress("merging", 0, 0)
    model, made, odd = merged_weights(plan.model, weights, type)
    notices += [f"{odd} matrices are float32, since their rows are no whole blocks of {type}"] if odd else []
    uses: dict[str, Any] = {"chat": folder.chat(written, name), "pairs": folder.pairs(written, name)}
    uses |= {"taught": folder.taught(written, codec, name)}

    def opened(of: ModelPlan, arrays: dict[str, Any]) -> LanguageModel:
        at, _ = here(plan.model_copy(update={"model": of}))
        return LanguageModel(at, codec, quantised(of, arrays, FLOAT)[0], name, chat=uses["chat"])

    bare = {t.name: weights[t.name] for t in model.tensors}
    layers = sum(made[n] is not a for n, a in bare.items())
    openers = [partial(opened, *one) for one in ((plan.model, weights), (model, made), (model, bare))]
    apart, changed, largest, learned = compared(openers, partial(measured_on, type, layers - odd, text), progress)
    notices += judged(type, apart, largest, None if isinstance(learned, str) else learned)
    progress("writing", 0, 0)
    to_save, origin = published(written, name, model)
    uses |= {"phase": name, "attributions": folder.attributions(written)}
    uses["origin"] = origin or (folder.origin if isinstance(folder, PEFTFolder) else "")
    save_model(out, written.model_copy(update={"model": to_save}), codec.to_json(), made, **uses)
    return Merged(
        path=str(out),
        phase=name,
        type=type,
        layers=layers,
        logits=apart,
        changed=changed,
        learned=None if isinstance(learned, str) else learned,
        unmeasured=learned if isinstance(learned, str) else "",
        notices=tuple(notices),
    )


def check(path: Path, model: ModelPlan, phase: str, type: str) -> None:
    """Raises LlmspecError for a type that there is not, and for a model without an adapter."""
    if type not in MERGED:
        raise LlmspecError(f"matrices cannot be merged as `{type}`", one_of(type, MERGED))
    if model.adapter is None:
        raise LlmspecError(
            f"{path} has no adapter: {phase} has trained the model itself",
            hint="`llmspec export` writes it as it is",
            consequence="there is nothing to merge",
        )


def measured_on(type: str, rounded: int, text: Path | None, model: LanguageModel, progress: Progress) -> HeldOut | str:
    """The text that is measured on, or why there is none. Raises LlmspecError where there is none, and so many matrices
    would be rounded to few bits."""
    held = held_out.found(model, text, progress)
    if isinstance(held, str) and rounded and held_out.few_bits(type):
        raise held_out.refused(type, held, rounded)
    return held


def compared(
    openers: Sequence[Callable[[], LanguageModel]],
    text: Callable[[LanguageModel, Progress], HeldOut | str],
    progress: Progress,
) -> tuple[float, float, float, Learned | str]:
    """(largest difference of a logit that merging makes, and that the adapter makes; the largest logit; what was
    learned, or why that is not known) of model and adapter, merged weights and the model alone, opened in turn."""
    held: HeldOut | str = ""
    found: list[tuple[float, Any]] = []
    for opener, what in zip(openers, ("model and adapter", "merged weights", "the model alone"), strict=True):
        model = opener()
        held = held or text(model, progress)
        found.append(_measured(model, held, progress, what))
        del model
    (adapted, logits), (merged, after), (base, before) = found
    apart, changed, largest = (float(abs(x).max()) for x in (after - logits, before - logits, logits))
    if isinstance(held, str):
        return apart, changed, largest, held
    learned = Learned(text=held.source, tokens=held.tokens, base=base, adapted=adapted, merged=merged)
    return apart, changed, largest, learned


def merged_weights(model: ModelPlan, weights: dict[str, Any], type: str) -> tuple[ModelPlan, dict[str, Any], int]:
    """(the model without its adapter, its weights, how many of the merged ones do not fit the type)."""
    adapter, made, odd, bare = model.adapter, dict[str, Any](), 0, without_adapter(model)
    assert adapter is not None
    for name in (t.name for t in bare.tensors):
        if not adapter.among(name, weights):
            made[name] = weights[name]
            continue
        layer = name.removesuffix("weight")
        own = {n.removeprefix(layer): as_float32(a) for n, a in weights.items() if n.startswith(layer) and n != name}
        whole = adapter.merged(as_float32(weights[name]), own)
        fits = type != FLOAT and TYPES[type].fits(whole.shape)
        odd += type != FLOAT and not fits
        made[name] = quantise(type, whole, name) if fits else whole
    return bare, made, odd


def published(plan: Plan, phase: str, model: ModelPlan) -> tuple[ModelPlan, str]:
    """(the network as it is written, its mapping table): that of the model that was adapted, with the context that it
    has, where nothing else was added to it."""
    start = next((p.phase.from_ for p in plan.phases if p.name == phase), None)
    if not isinstance(start, StartModel):
        return model, ""
    folder = folder_of(plan, start)
    _, theirs = model_in(folder, folder.plan())
    same = [(t.name, t.shape) for t in theirs.tensors] == [(t.name, t.shape) for t in model.tensors]
    if isinstance(folder, ForeignModel):
        origin = folder.origin
    else:
        origin = folder.notes.origin if isinstance(folder, ModelFolder) else ""
    return (theirs if same else model), origin


def _measured(model: LanguageModel, held: HeldOut | str, progress: Progress, what: str) -> tuple[float, Any]:
    """(nats per token of the held-out text, logits of its first row, or of some ids)."""
    import numpy as np

    progress(f"measuring {what}", 0, 0)
    if isinstance(held, HeldOut):
        return held_out.nats(model, held), model.logits(list(held.rows[0][0]))
    ids = np.arange(min(model.plan.model.context, 32)) % model.codec.vocab
    return 0.0, model.logits(ids, ids[: model.plan.model.encoder_context] if model.plan.model.encoder else None)


def judged(type: str, apart: float, largest: float, learned: Learned | None) -> list[str]:
    """What is to be said of the merged weights. Raises LlmspecError where they are not what was learned."""
    if type == FLOAT and apart > EXACT * max(1.0, largest):
        raise LlmspecError(
            f"logits of the merged weights are {apart:.2g} from those of model and adapter",
            consequence="the merged model would not be the adapted one; nothing was written",
        )
    lost = learned.lost if learned else None
    if learned is None or lost is None or lost <= SAID:
        return []
    said = (
        f"as {type}, the merged weights lose {lost:.0%} of what was learned: {learned.base:.4f} nats per token without "
        f"the adapter, {learned.adapted:.4f} with it, {learned.merged:.4f} merged"
    )
    if lost <= TOO_MUCH:
        return [said]
    raise LlmspecError(
        Problem(
            said,
            hint="another --type, such as q8_0 or f16; or keep the adapter beside the model, as it was trained",
            consequence="rounding would take most of it away again; nothing was written",
        )
    )
