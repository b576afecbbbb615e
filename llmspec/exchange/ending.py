"""What of a model is exported: its body with one head, that which it was trained for last, as transformers has it."""

from __future__ import annotations

from typing import Any, NamedTuple

from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.compiler.walk import head_path
from llmspec.core.problems import RunError
from llmspec.decoding.classifying import classifying_head
from llmspec.decoding.language_model import LanguageModel
from llmspec.decoding.rewarding import reward_head
from llmspec.decoding.tagging import tagging_head
from llmspec.formats.hf.labelled import placeholder
from llmspec.parts.heads import Head
from llmspec.parts.heads.classes import Classes
from llmspec.parts.heads.labels import Labelled
from llmspec.parts.heads.score import Score
from llmspec.parts.heads.tokens import Tokens

REWARD = "reward"


class Ending(NamedTuple):
    """A model with one head."""

    plan: Plan
    head: str
    """What it is called there."""
    own: str
    """What the run calls it."""
    scale: float
    offset: float
    """What its outputs are multiplied with, and what is added, so that they are in the unit of the labels."""
    left_out: tuple[str, ...]
    """The other heads."""

    @property
    def labelled(self) -> bool:
        """Whether it gives labels or numbers, and no tokens."""
        return isinstance(self.plan.model.heads[self.head], Labelled | Score)

    def weights(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Those of this model, of all weights of the run's. A unit of numbers is multiplied into the head's."""
        import numpy as np

        before = f"{head_path(self.own)}."
        others = tuple(f"{head_path(name)}." for name in self.left_out)
        found = {
            f"{head_path(self.head)}.{name.removeprefix(before)}" if name.startswith(before) else name: array
            for name, array in whole.items()
            if not name.startswith(others or ("\0",))
        }
        for leaf, more in (("weight", 0.0), ("bias", self.offset)):
            if (name := f"{head_path(self.head)}.{leaf}") in found and (self.scale, self.offset) != (1.0, 0.0):
                found[name] = (found[name].astype(np.float64) * self.scale + more).astype(np.float32)
        return found


def ending(model: LanguageModel) -> Ending:
    """Raises RunError for a model whose head no format of others has."""
    network, own = model.plan.model, own_head(model)
    head, scale, offset = network.heads[own], 1.0, 0.0
    name = own
    if isinstance(head, Classes | Tokens):
        name = head.kind
    elif isinstance(head, Score):
        name = REWARD if REWARD in (own, model.taught.head) else "score"
        scale, offset = float(head.std or 1.0), float(head.mean)
        if offset and not head.bias:
            raise RunError(
                f"the numbers of the head `{own}` lie around {offset:g}, and it has no bias that could hold this",
                hint="train with `mean: 0` and `std:`, or with `bias: true` in a head of its own",
                consequence="transformers would give numbers around 0",
            )
    others = tuple(other for other in network.heads if other != own)
    plan = model.plan.model_copy(update={"model": with_head(network, own, name, as_read(head, name))})
    return Ending(plan, name, own, scale, offset, others)


def own_head(model: LanguageModel) -> str:
    """The head that a model was trained for last; of one without a run, that which `sample` asks. Raises RunError."""
    network = model.plan.model
    told = model.taught.head
    if isinstance(network.heads.get(told), Labelled | Score):
        return told
    if told in network.heads and network.heads[told].embeds:
        raise RunError(
            "the model was trained last to make vectors of texts, and no format of others is written for those",
            hint="another phase of the run, with --phase",
            consequence="its text would be that of a head that does not fit it any more",
        )
    if not network.generates:
        for name in (classifying_head(network), tagging_head(network), reward_head(network)):
            if name is not None:
                return name
    if (generating := network.generating_head) is None:
        raise RunError(
            f"the model ends in {', '.join(network.heads)}, which gives neither tokens nor labels nor one number, and "
            "only such models are exported",
            hint="another phase of the run, with --phase",
        )
    return generating


def as_read(head: Head, name: str) -> Head:
    """The head as it is read of an export: with names, and without what is said elsewhere."""
    if isinstance(head, Labelled):
        labels = head.labels or tuple(placeholder(i) for i in range(head.classes or 0))
        head = head.model_copy(update={"labels": labels})
    elif isinstance(head, Score):
        head = head.model_copy(update={"mean": 0.0, "std": None if name == REWARD else 1.0})
    return head.model_copy(update={"max_tokens": None}) if getattr(head, "max_tokens", None) else head


def with_head(network: ModelPlan, own: str, name: str, head: Head) -> ModelPlan:
    """The network with that head alone, which is called `name`."""
    path, before = head_path(name), f"{head_path(own)}."
    others = tuple(f"{head_path(other)}." for other in network.heads if other != own)
    tensors = tuple(
        t.model_copy(update={"name": f"{path}.{t.name.removeprefix(before)}"}) if t.name.startswith(before) else t
        for t in network.tensors
        if not t.name.startswith(others or ("\0",))
    )
    return network.model_copy(update={"heads": {name: head}, "tensors": tensors})
