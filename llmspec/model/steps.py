"""The steps that run under TinyJit: train, accumulate, evaluate.

Whatever changes from call to call is an input: weights and optimizer state are held by the caller and assigned in
place; learning rate, bias corrections, random key and the share of each target in the loss are tensors.
"""

from __future__ import annotations

from tinygrad import Tensor

from llmspec.backends.backend import Backend
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.hashing import digest
from llmspec.model.transformer import Transformer, block_context

Tensors = dict[str, Tensor]


class Steps:
    """The graphs of one phase. `weights` and `state` are dicts of realized tensors that the steps assign in place."""

    def __init__(self, plan: Plan, phase: PhasePlan, backend: Backend) -> None:
        self._plan, self._phase, self._lowering = plan, phase.phase, backend
        self._model = Transformer(plan.model)
        self._objective = self._phase.objective.build()
        self._roles = {t.name: t.role for t in plan.model.tensors}
        key = self._address()
        self.train, self.accumulate = backend.jit(self._train, key), backend.jit(self._accumulate, key)
        self.apply, self.evaluate = backend.jit(self._apply, key), backend.jit(self._evaluate, key)

    def _address(self) -> str:
        """A name for what the graphs are made from, beside their inputs."""
        phase = self._phase
        parts = [p.model_dump(mode="json") for p in (self._plan.model, phase.optimizer, phase.objective)]
        return digest([*parts, phase.max_grad_norm])

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Optimizer state by name `<weight>:<state>`; float32, zero at step 0."""
        optimizer = self._phase.optimizer
        return {f"{t.name}:{s}": t.shape for t in self._plan.model.tensors for s in optimizer.state(t.role)}

    # -- the graphs ----------------------------------------------------------------------------------------------
    def _losses(self, tensors: Tensors, inputs: Tensors, key: Tensor | None) -> Tensor:
        """The weighted sum of the losses of a batch, in nats."""
        tokens_BT = inputs["tokens"]
        ops = self._lowering.ops(inputs, key, self._plan.model.dropout)
        view = block_context(tokens_BT.shape[1], inputs["spans"], inputs.get("positions"))  # type: ignore[arg-type]
        hidden = self._model.hidden(ops, tensors, tokens_BT, view)
        losses_N = self._objective(
            ops, hidden.reshape(-1, hidden.shape[-1]), self._model.head_weight(tensors), inputs["targets"].reshape(-1)
        )
        return (losses_N * inputs["shares"].reshape(-1)).sum()

    def _gradients(self, weights: Tensors, tables: Tensors, inputs: Tensors) -> tuple[Tensor, list[Tensor]]:
        key = inputs["key"] if self._plan.model.dropout else None
        loss = self._losses({**weights, **tables}, inputs, key)
        gradients = loss.gradient(*weights.values())
        Tensor.realize(loss, *gradients)
        return loss, gradients

    def _train(self, weights: Tensors, state: Tensors, tables: Tensors, inputs: Tensors) -> tuple[Tensor, Tensor]:
        loss, gradients = self._gradients(weights, tables, inputs)
        return loss, self._update(weights, state, gradients, inputs)

    def _accumulate(self, weights: Tensors, sums: Tensors, tables: Tensors, inputs: Tensors) -> Tensor:
        """Adds a pass's gradients to `sums`; `inputs["keep"]` is 0 on the first pass of a step, else 1."""
        loss, gradients = self._gradients(weights, tables, inputs)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.assign(total * inputs["keep"] + gradient)
        Tensor.realize(*sums.values())
        return loss

    def _apply(self, weights: Tensors, state: Tensors, sums: Tensors, inputs: Tensors) -> Tensor:
        return self._update(weights, state, list(sums.values()), inputs)

    def _update(self, weights: Tensors, state: Tensors, gradients: list[Tensor], inputs: Tensors) -> Tensor:
        """Clips, then lets the optimizer update weights and state; returns the norm before clipping."""
        ops, optimizer = self._lowering.ops(inputs), self._phase.optimizer
        # Realized apart: as one expression every parameter's sum would be fused into every kernel that uses the norm.
        squares = [ops.square_sum(g) for g in gradients]
        Tensor.realize(*squares)
        norm = Tensor.cat(*squares).sum().sqrt().realize()
        scale = (
            Tensor.full((1,), 1.0) if self._phase.max_grad_norm is None else self._phase.max_grad_norm / (norm + 1e-6)
        )
        scale = scale.minimum(1.0).reshape(1).contiguous().realize()
        for (name, w), g in zip(weights.items(), gradients, strict=True):
            role = self._roles[name]
            own = {s: state[f"{name}:{s}"] for s in optimizer.state(role)}
            optimizer.update(ops, role, w, g, scale, own, inputs["scalars"])
        Tensor.realize(*ops.written)
        return norm

    def _evaluate(self, weights: Tensors, tables: Tensors, inputs: Tensors) -> Tensor:
        return self._losses({**weights, **tables}, inputs, None).realize()
