"""Forward passes of models that stand beside the one that a phase trains: what their heads make of the same batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tinygrad import Tensor

from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler.inputs import NOISE
from llmspec.compiler.plan import PhasePlan
from llmspec.core.quantised import as_float32
from llmspec.model.transformer import Transformer, block_context, states_at
from llmspec.parts.objectives.base import Outputs

Weights = Mapping[str, Callable[[], Mapping[str, Any]]]
"""By role: f() -> the weights by name, as numpy arrays."""


class OtherModels:
    """The models beside a phase's, by role. Their tensors stand among the constant tables that graphs read, which no
    step changes: `<role>/<name of the tensor>`."""

    def __init__(self, phase: PhasePlan) -> None:
        self._models = {role: Transformer(other.model) for role, other in phase.others.items() if not other.once}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, weights and tables."""
        found = dict[str, tuple[int, ...]]()
        for role, model in self._models.items():
            found |= {f"{role}/{t.name}": t.shape for t in model.plan.tensors}
            found |= {f"{role}/{name}": tuple(array.shape) for name, array in model.tables().items()}
        return found

    def tensors(self, weights: Weights) -> dict[str, Tensor]:
        """All tensors, in the device's memory; those of one model after another, so that few lie in memory twice."""
        found = dict[str, Tensor]()
        for role, model in self._models.items():
            arrays = weights[role]()
            named = {**{t.name: arrays[t.name] for t in model.plan.tensors}, **model.tables()}
            found |= {f"{role}/{name}": tensors_from_numpy(w=as_float32(array))["w"] for name, array in named.items()}
        return found

    def outputs(
        self, backend: Backend, tables: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> dict[str, Outputs]:
        """What the head of each makes of a batch, its last layer not yet applied."""
        found = dict[str, Outputs]()
        inputs = {name: given for name, given in inputs.items() if name != NOISE}
        for role, model in self._models.items():
            own = {name.removeprefix(f"{role}/"): t for name, t in tables.items() if name.startswith(f"{role}/")}
            ops, context = backend.ops(inputs), block_context(inputs)
            hidden = model.hidden(ops, own, inputs, context)
            if (places := inputs.get("places")) is not None:
                hidden = states_at(ops, hidden, places)
            found[role] = model.outputs(ops, own, hidden, filled=context.filled)
        return found
