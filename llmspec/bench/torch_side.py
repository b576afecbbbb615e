"""The training step of the PyTorch peer: forward, backward, clipping, optimizer, as a plain loop writes them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from llmspec.bench.batches import batch
from llmspec.bench.peer_support import unknown
from llmspec.bench.task import WARM, BenchError, Result, Task
from llmspec.bench.torch_experts import MixtureOfExperts
from llmspec.bench.torch_peer import loaded
from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.compiler.updates import Updates
from llmspec.core.devices import kind_of
from llmspec.core.problems import Problem
from llmspec.data.inputs import BatchInputs
from llmspec.forecast.process_memory import peak_bytes
from llmspec.forecast.timing import timed
from llmspec.parts.objectives import Objective
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.objectives.masked_lm import MaskedLM

DEVICES = {"CPU": "cpu", "CUDA": "cuda", "NV": "cuda", "METAL": "mps"}


def run(task: Task) -> Result:
    """Measures training steps in this process. Raises BenchError for what PyTorch or the peer does not have."""
    training = Training(task.plan, task.plan.phase(task.phase))
    check = training.first_loss()
    if task.side == "torch.compile":
        compile_passes(training)
    for _ in range(WARM):
        training.advance()
    return Result(
        name=f"{task.side} {torch.__version__}",
        seconds=timed(training.advance, task.steps),
        check=(check,),
        peak_bytes=held(training.device),
    )


def compile_passes(training: Training) -> None:
    """Has PyTorch compile the passes, before any clock starts. Raises BenchError where it cannot."""
    training.mean_loss = torch.compile(training.mean_loss)  # type: ignore[method-assign]
    try:
        training.advance()
    except RuntimeError as error:  # whatever its compilers say; they have no one error for it
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BenchError(
            Problem(
                f"torch.compile cannot compile this model here: {said}",
                hint="it needs a C++ compiler (g++ or clang++); `--against torch` does without",
                consequence="there would be nothing to compare with",
            )
        ) from error


def held(on: torch.device) -> int:
    """The most memory held: by the process on a CPU, by tensors on a GPU, so far as PyTorch counts it."""
    if on.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return int(torch.mps.driver_allocated_memory()) if on.type == "mps" else peak_bytes()


class Training:
    """Optimizer steps of a phase on random batches, at its peak learning rate."""

    def __init__(self, plan: Plan, phase: PhasePlan) -> None:
        self.plan, self.phase, self.device = plan, phase, device(plan)
        self.peer = loaded(plan).to(self.device)
        trained = {t.name for t in phase.model.trained}
        for name, parameter in self.peer.named_parameters():
            parameter.requires_grad_(name in trained)
        parameters = {n: p for n, p in self.peer.named_parameters() if n in trained}
        if phase.phase.ema is not None or len(Updates(phase.model, phase.phase).groups) > 1:
            raise unknown("torch", "averages of weights, or rates by tensor", "one rate, and no average")
        self.optimizers = optimizers(phase.phase.optimizer, plan, parameters)
        self.passes, self.step = phase.phase.gradient_accumulation_steps, 0
        self.smoothing = smoothing(phase.phase.objective)
        self.z_loss = float(getattr(phase.phase.objective, "z_loss", 0.0))
        self.inputs = BatchInputs(phase.model, phase.phase, plan.tokenizer.meanings(), (plan.seed, phase.name))

    def advance(self) -> float:
        """One optimizer step; its mean loss in nats."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in range(self.passes):
            loss = self.loss(self.step * self.passes + micro) / self.passes
            (loss + self.added() / self.passes).backward()
            total += loss.item()
        if self.phase.phase.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.peer.parameters(), self.phase.phase.max_grad_norm).item()
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return total

    def loss(self, index: int) -> torch.Tensor:
        """The mean loss of a pass, in nats."""
        read = self.inputs.asked(batch(self.plan, self.phase, index), *divmod(index, self.passes))
        apart = documents_apart(self.plan.model, self.phase.phase)
        names = ("tokens", "targets", "encoder_tokens", *(("documents", "positions") if apart else ()))
        found = {n: array for n in names if (array := getattr(read, n)) is not None}
        arrays = {n: torch.from_numpy(array).to(self.device).long() for n, array in found.items()}
        # What does not count has the target -100, as in PyTorch's and transformers' own losses.
        counts = torch.from_numpy(read.weights > 0).to(self.device)
        arrays["targets"] = arrays["targets"].masked_fill(~counts, -100)
        return self.mean_loss(arrays)

    def mean_loss(self, arrays: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of a pass over these tokens: what is compiled, where anything is."""
        logits = self.peer(
            arrays["tokens"], arrays.get("documents"), arrays.get("positions"), arrays.get("encoder_tokens")
        )
        targets = arrays["targets"].view(-1)
        flat = logits.view(-1, logits.shape[-1])
        loss = F.cross_entropy(flat, targets, label_smoothing=self.smoothing)
        return loss + self.z_loss * (flat[targets >= 0].logsumexp(-1) ** 2).mean() if self.z_loss else loss

    def added(self) -> Any:
        """The losses that parts add in the last pass."""
        return sum(m.balance for m in self.peer.modules() if isinstance(m, MixtureOfExperts))

    @torch.no_grad()
    def first_loss(self) -> float:
        """The mean loss of the first step's batches without dropout."""
        self.peer.eval()
        losses = [self.loss(micro).item() for micro in range(self.passes)]
        self.peer.train()
        return sum(losses) / self.passes


def smoothing(objective: Objective) -> float:
    """The peer's objectives are cross entropies, of the next token with label smoothing or of masked tokens. Raises
    BenchError for any other."""
    if not isinstance(objective, CrossEntropy | MaskedLM):
        raise unknown("torch", f"the objective `{objective.kind}`", "cross_entropy and masked_lm")
    return float(getattr(objective, "label_smoothing", 0.0))


def device(plan: Plan) -> torch.device:
    """PyTorch's name of the plan's device. Raises BenchError where it has none."""
    name = DEVICES.get(kind_of(plan.device))
    if name is None or (name == "cuda" and not torch.cuda.is_available()):
        raise unknown("torch", f"the device {plan.device} here", "CPU, and CUDA and METAL where it was built for them")
    return torch.device(name)


def optimizers(part: Any, plan: Plan, parameters: dict[str, Any]) -> list[Any]:
    """The phase's optimizer with PyTorch's defaults (foreach, fused …); two of them for Muon and its rest."""
    kind, roles = part.kind, {t.name: t.role for t in plan.model.tensors}
    if kind == "muon" and hasattr(torch.optim, "Muon"):
        hidden: dict[float, list[Any]] = {}
        for n, p in parameters.items():
            if roles[n] == "matrix":
                hidden.setdefault(part.of(n).weight_decay, []).append(p)
        rest = {n: p for n, p in parameters.items() if roles[n] != "matrix"}
        muon = torch.optim.Muon(
            [{"params": some, "weight_decay": decay} for decay, some in hidden.items()],
            lr=part.lr,
            momentum=part.momentum,
            nesterov=part.nesterov,
            ns_steps=part.iterations,
        )
        return [muon, *optimizers(part.adamw.model_copy(update={"no_decay": part.no_decay}), plan, rest)]
    settings: dict[str, Any] = {"lr": part.lr}
    if kind in ("adam", "adamw"):
        settings |= {"betas": (part.beta1, part.beta2), "eps": part.eps}
    elif kind == "sgd":
        nesterov = part.nesterov and part.momentum > 0
        settings |= {"momentum": part.momentum, "nesterov": nesterov}
    else:
        raise unknown("torch", f"the optimizer `{kind}`", "sgd, adam, adamw, and muon from torch 2.9 on")
    free = [p for n, p in parameters.items() if not part.of(n).decay(roles[n])]
    kept = [p for n, p in parameters.items() if part.of(n).decay(roles[n])]
    groups = [{"params": kept, "weight_decay": part.weight_decay}, {"params": free, "weight_decay": 0.0}]
    made = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind]
    return [made([g for g in groups if g["params"]], **settings)]
