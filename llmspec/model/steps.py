"""The steps that run under TinyJit: train, accumulate, evaluate.

Whatever changes from call to call is an input: weights and optimizer state are held by the caller and assigned in
place; learning rate, bias corrections, random key and the weight of each target in the loss are tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from tinygrad import Tensor

from llmspec.backends.plain.backend import Backend
from llmspec.backends.plain.ops import Ops
from llmspec.compiler.inputs import MEMBERS, PASS_SHARE
from llmspec.compiler.plan import PhasePlan
from llmspec.compiler.updates import Updates, state_shapes, tensor_states
from llmspec.compiler.walk import walk
from llmspec.core.hashing import digest
from llmspec.model.others import OtherModels
from llmspec.model.recomputing import Tape
from llmspec.model.transformer import Stack, Transformer, block_context, states_at
from llmspec.parts.ops import WeightLayout
from llmspec.parts.optimizers.base import AVERAGE, TRAINED, Learned

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def states_of(ops: Ops, x_BTD: Tensor, members_BKT: Tensor) -> Tensor:
    """(B·K, 1, D): of each document of each row the sum of its tokens' states (B, T, D), each times what it counts in
    it; as sequences of one token, which heads that pool take as they are."""
    return ops.matmul(members_BKT, x_BTD).reshape(-1, 1, int(x_BTD.shape[-1]))


class Steps:
    """The graphs of one phase. `weights` and `state` are dicts of realized tensors that the steps assign in place; of
    the weights only those that the phase trains, which alone have gradients, sums and state."""

    def __init__(
        self, phase: PhasePlan, backend: Backend, layouts: Mapping[str, WeightLayout] = MappingProxyType({})
    ) -> None:
        """`layouts` are those of weights that stay quantised, as `backend.hold` gives them."""
        self._network, self._phase, self._backend = phase.model, phase.phase, backend
        self._layouts, self._beside, self._others = layouts, phase.others, OtherModels(phase)
        frozen = frozenset(t.name for t in phase.model.tensors if not t.trainable)
        self._model = Transformer(phase.model, layouts, frozen)
        objective, dims = self._phase.objective, phase.model.dims
        self._objective = {False: objective.build(dims), True: objective.in_validation().build(dims)}
        added = dict.fromkeys(name for piece in walk(phase.model) for name in piece.part.adds_losses)
        told = dict.fromkeys(name for piece in walk(phase.model) for name in piece.part.adds_metrics)
        self._added, self._told = tuple(added), tuple(told)
        self.sums = ("loss", *self._phase.objective.counted, *self._added, *self._told)
        """Names of what a pass gives: the weighted sum of its losses, what the objective counts beside, and the losses
        and metrics that parts add."""
        self._measures = self._phase.objective.measures(phase.model.dims)
        objective = self._phase.objective
        self.evaluated = (*self.sums, *objective.measured, *objective.gathered)
        """Names of what a pass gives in validation."""
        self._trained, self.updates = phase.model.trained, Updates(phase.model, self._phase)
        key = self._address()
        self.train, self.accumulate = backend.jit(self._train, key), backend.jit(self._accumulate, key)
        self.apply, self.evaluate = backend.jit(self._apply, key), backend.jit(self._evaluate, key)

    def _address(self) -> str:
        """A name for what the graphs are made from, beside their inputs."""
        phase = self._phase
        parts = [p.model_dump(mode="json") for p in (self._network, phase.optimizer, phase.objective)]
        parts += [{"embedding noise": True}] * (phase.embedding_noise is not None)
        parts += [other.model.model_dump(mode="json") for other in self._beside.values()]
        again = ["activation checkpointing"] if phase.activation_checkpointing else []
        again += ["batch size warm-up"] if phase.batch_size_warmup.percent else []
        packed = [sorted(self._layouts.items())] if self._layouts else []
        return digest([*parts, phase.max_grad_norm, *self.updates.address(), *packed, *again])

    def state_shapes(self) -> Shapes:
        """Optimizer state by name, as `state_shapes`."""
        return state_shapes(self._network, self._phase)

    def live(self, weights: Tensors, state: Tensors) -> Tensors:
        """What a pass of training reads: the weights, or what is trained in their place where they are averages."""
        return {n: state.get(f"{n}:{TRAINED}", w) for n, w in weights.items()}

    # -- without capture -----------------------------------------------------------------------------------------
    def watch(self, see: Callable[[Stack], Stack]) -> None:
        """Puts other stacks, made of its own by `see`, in place of the network's."""
        self._model.watch(see)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the tensors whose gradients `gradients` gives."""
        return tuple(t.name for t in self._trained)

    def gradients(self, weights: Tensors, tables: Tensors, inputs: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """The sums of a pass and the gradients of what is trained, computed as they are asked for."""
        return self._gradients(weights, tables, inputs)

    # -- the graphs ----------------------------------------------------------------------------------------------
    def _losses(
        self, ops: Ops, tensors: Tensors, inputs: Tensors, tape: Tape | None = None, validating: bool = False
    ) -> list[Tensor]:
        """The sums of a batch, in the order of their names; every loss times its weight."""
        context = block_context(inputs)
        context = context if tape is None else replace(context, through=tape.through)
        hidden = self._model.hidden(ops, tensors, inputs, context)
        if (places := inputs.get("places")) is not None:
            hidden = states_at(ops, hidden, places)
        filled = context.filled
        if (members := inputs.get(MEMBERS)) is not None and not self._phase.objective.sums_tokens:
            hidden, filled = states_of(ops, hidden, members), None
        objective = self._phase.objective
        outputs = self._model.outputs(ops, tensors, hidden, objective.head, filled)
        beside = {
            name: self._model.outputs(ops, tensors, hidden if reaches else hidden.detach(), name, filled)
            for name, reaches in objective.beside.items()
        }
        outputs = outputs._replace(others=self._others.outputs(self._backend, tensors, inputs), heads=beside)
        found = self._objective[validating](ops, outputs, inputs)
        # Those of the passes of a step count as their mean, as the weights of the objective's losses already say.
        own = {**ops.losses, **ops.metrics}
        whole = self._phase.gradient_accumulation_steps
        share = inputs.get(PASS_SHARE)
        found |= {
            name: own[name] / whole if share is None else own[name] * share.reshape(())
            for name in (*self._added, *self._told)
        }
        if validating and self._measures is not None:
            found |= self._measures(ops, outputs, inputs)
        return [found[name] for name in (self.evaluated if validating else self.sums)]

    def _gradients(self, weights: Tensors, tables: Tensors, inputs: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        ops = self._backend.ops(inputs, inputs["key"] if self._network.drawn else None, self._network.drops)
        names = [t.name for t in self._trained]
        tape = Tape(ops, names) if self._phase.activation_checkpointing else None
        sums = self._losses(ops, {**weights, **tables}, inputs, tape)
        named = dict(zip(self.sums, sums, strict=True))
        whole = sum((named[name] for name in self._added), sums[0])
        if tape is not None:
            return sums, tape.gradients(whole, sums, weights, names)
        gradients = whole.gradient(*(weights[name] for name in names))
        Tensor.realize(*sums, *gradients)
        return sums, gradients

    def _train(self, weights: Tensors, state: Tensors, tables: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        """The sums of a batch, and the norm of its gradient."""
        sums, gradients = self._gradients(self.live(weights, state), tables, inputs)
        return (*sums, self._update(weights, state, gradients, inputs))

    def _accumulate(self, weights: Tensors, sums: Tensors, tables: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        """Adds a pass's gradients by `live` weights to `sums`; `inputs["keep"]` is 0 on the first pass of a step, else
        1."""
        found, gradients = self._gradients(weights, tables, inputs)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.assign(total * inputs["keep"] + gradient)
        Tensor.realize(*sums.values())
        return tuple(found)

    def _apply(self, weights: Tensors, state: Tensors, sums: Tensors, inputs: Tensors) -> Tensor:
        return self._update(weights, state, list(sums.values()), inputs)

    def _update(self, weights: Tensors, state: Tensors, gradients: list[Tensor], inputs: Tensors) -> Tensor:
        """Clips, then lets the optimizer update weights and state; returns the norm before clipping."""
        ops, optimizer, live = self._backend.ops(inputs), self._phase.optimizer, self.live(weights, state)
        scalars = {t.name: inputs["scalars"][self.updates.place(t.name)] for t in self._trained}
        # Realized apart: as one expression every parameter's sum would be fused into every kernel that uses the norm.
        squares = [ops.square_sum(g) for g in gradients]
        if self._phase.unfreeze:  # what does not train yet has no part in the norm
            squares = [s * scalars[t.name][-1] for t, s in zip(self._trained, squares, strict=True)]
        Tensor.realize(*squares)
        norm = Tensor.cat(*squares).sum().sqrt().realize()
        scale = (
            Tensor.full((1,), 1.0) if self._phase.max_grad_norm is None else self._phase.max_grad_norm / (norm + 1e-6)
        )
        scale = scale.minimum(1.0).reshape(1).contiguous().realize()
        for t, g in zip(self._trained, gradients, strict=True):
            own = {s: state[f"{t.name}:{s}"] for s in tensor_states(t, self._phase)} | {AVERAGE: weights[t.name]}
            shrunk = scale * scalars[t.name][-1] if self._phase.unfreeze else scale
            of = Learned(t.role, live[t.name], g, shrunk, own, scalars[t.name])
            optimizer.of(t.name).update(ops, of)
        Tensor.realize(*ops.written)
        if self._phase.ema is not None:
            self._average(weights, live, inputs)
        return norm

    def _average(self, weights: Tensors, live: Tensors, inputs: Tensors) -> None:
        """Moves each weight towards what was trained in its place."""
        ops = self._backend.ops(inputs)
        for t in self._trained:
            ops.average(weights[t.name], live[t.name], inputs["scalars"][-1:])
        Tensor.realize(*ops.written)

    def _evaluate(self, weights: Tensors, tables: Tensors, inputs: Tensors) -> tuple[Tensor, ...]:
        sums = self._losses(self._backend.ops(inputs), {**weights, **tables}, inputs, validating=True)
        Tensor.realize(*sums)
        return tuple(sums)
