"""Optimizer steps, clipping and loss are those of torch, over fifty steps from the same weights and gradients."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

from networks import EPS, Inputs, drawn_weights, memory, plan_of, states_at_first  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402  (networks opens the device)
from llmspec.model.steps import Steps  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402

MODEL: dict[str, Any] = {
    "layers": 1,
    "position": {"kind": "learned"},
    "attention": {"kind": "multi_head", "heads": 2, "bias": True},
    "mlp": {"kind": "gelu", "d_ff": 24},
    "norm": {"kind": "layernorm"},
    "heads": {"lm": {"kind": "lm", "tied": False}},
}
STEPS = 50
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "SGD": ({"kind": "sgd", "lr": 0.05, "weight_decay": 0.1}, {}),
    "SGD nesterov": (
        {"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True},
    ),
    "SGD momentum": ({"kind": "sgd", "lr": 0.05, "momentum": 0.9}, {"momentum": 0.9}),
    "Adam": (
        {"kind": "adam", "lr": 0.01, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1},
        {"betas": (0.9, 0.99), "eps": 1e-6},
    ),
    "AdamW by names": (
        {"kind": "adamw", "lr": 0.01, "weight_decay": 0.3, "no_decay": ["embed_tokens.*", "layers.*.q_proj.*"]},
        {"betas": (0.9, 0.95)},
    ),
    "AdamW": ({"kind": "adamw", "lr": 0.01, "beta1": 0.8, "weight_decay": 0.3}, {"betas": (0.8, 0.95)}),
}
"""Ours, and torch's name and settings beside learning rate and decay."""


def run(options: dict[str, Any], clip: float | None, their: Any) -> tuple[Any, Inputs, dict[str, Any], list[Any]]:
    """Fifty steps of ours and of the optimizers that `their(plan, parameters)` makes, on the same gradients."""
    plan = plan_of(MODEL, optimizer=options, max_grad_norm=clip, schedule={"kind": "constant"})
    part, steps = plan.phases[0].phase.optimizer, Steps(plan.phases[0], backend("CPU"))
    w = drawn_weights(plan.model, 1)
    weights, state, sums, common = Inputs().put(w), Inputs(), Inputs(), Inputs()
    state.put(states_at_first(plan, w))
    parameters = {n: torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for n, v in w.items()}
    optimizers, norms = their(plan, parameters), []
    for step in range(1, STEPS + 1):
        g = drawn_weights(plan.model, 100 + step)
        factor = step / STEPS
        inputs = common.put({"scalars": np.array(part.scalars(factor, step), np.float32)})
        norm = float(memory(steps.apply(weights, state, sums.put(g), {**inputs, **backend("CPU").inputs})))
        for n, p in parameters.items():
            p.grad = torch.tensor(g[n], dtype=torch.float64)
        if clip is not None:
            norms.append((norm, float(torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip))))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * factor
            optimizer.step()
    for optimizer in optimizers:
        getattr(optimizer, "averaged", list)()
    return plan, weights, {n: p.detach().numpy() for n, p in parameters.items()}, norms


def decayed(plan: Any, parameters: dict[str, Any], amount: float) -> list[dict[str, Any]]:
    roles = {t.name: t.role for t in plan.model.tensors}
    by_hand = plan.phases[0].phase.optimizer.no_decay
    apart = {n for n in parameters if roles[n] in ("norm", "bias") or any(fnmatchcase(n, p) for p in by_hand)}
    free = [p for n, p in parameters.items() if n in apart]
    rest = [p for n, p in parameters.items() if n not in apart]
    return [{"params": rest, "weight_decay": amount}, {"params": free, "weight_decay": 0.0}]


def equal(plan: Any, weights: Inputs, exact: dict[str, Any], room: float, role: str | None = None) -> None:
    for t in plan.model.tensors:
        if role in (None, t.role):
            error = np.linalg.norm(memory(weights[t.name]) - exact[t.name])
            assert error <= room * np.linalg.norm(exact[t.name]), t.name


@pytest.mark.parametrize("clip", [None, 3.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_fifty_steps(name: str, clip: float | None) -> None:
    options, extra = SETTINGS[name]

    def their(plan: Any, parameters: dict[str, Any]) -> list[Any]:
        groups = decayed(plan, parameters, options.get("weight_decay", 0.0))
        return [getattr(torch.optim, name.split()[0])(groups, lr=options["lr"], **extra)]

    plan, weights, exact, norms = run(options, clip, their)
    equal(plan, weights, exact, 100 * EPS)
    for our, other in norms:
        assert our == pytest.approx(other, rel=100 * EPS) and (clip is None or our > clip)


@pytest.mark.parametrize("clip", [None, 3.0])
@pytest.mark.parametrize("scaled", [True, False])
def test_adafactor(clip: float | None, scaled: bool) -> None:
    options = {
        "kind": "adafactor",
        "lr": 0.03,
        "weight_decay": 0.1,
        "eps2": 0.05,
        "clip_threshold": 0.9,
        "scale_parameter": scaled,
    }
    transformers = pytest.importorskip("transformers")

    def their(plan: Any, parameters: dict[str, Any]) -> list[Any]:
        return [
            transformers.Adafactor(
                decayed(plan, parameters, 0.1),
                lr=0.03,
                eps=(1e-30, 0.05),
                clip_threshold=0.9,
                scale_parameter=scaled,
                relative_step=False,
            )
        ]

    plan, weights, exact, _ = run(options, clip, their)
    equal(plan, weights, exact, 100 * EPS)


class Lion(torch.optim.Optimizer):
    """The optimizer of Chen et al. 2023 (arXiv:2302.06675), as its algorithm 2 stands."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    def step(self) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p.data))
                direction = torch.sign(torch.lerp(p.grad, m, first))
                p.data -= group["lr"] * (direction + group["weight_decay"] * p.data)
                self.state[p]["m"] = torch.lerp(p.grad, m, second)


class ScheduleFree(torch.optim.Optimizer):
    """Schedule-free AdamW as its authors' code (facebookresearch/schedule_free) has it: a parameter is y, its average
    is made of y and z at the end."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self.steps, self.total = 0, 0.0

    def step(self) -> None:
        self.steps += 1
        lr = self.param_groups[0]["lr"]
        self.total += lr**2
        share = lr**2 / self.total
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"z": p.data.clone(), "v": torch.zeros_like(p.data)}
                state["v"] = second * state["v"] + (1 - second) * p.grad**2
                update = p.grad / ((state["v"] / (1 - second**self.steps)).sqrt() + group["eps"])
                update = update + group["weight_decay"] * p.data
                p.data.lerp_(state["z"], share)
                p.data.add_(update, alpha=lr * (first * (1 - share) - 1))
                state["z"] = state["z"] - lr * update

    def averaged(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.lerp_(self.state[p]["z"], 1 - 1 / group["betas"][0])


@pytest.mark.parametrize("clip", [None, 3.0])
def test_lion(clip: float | None) -> None:
    options = {"kind": "lion", "lr": 0.004, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.3}

    def their(plan: Any, parameters: dict[str, Any]) -> list[Any]:
        return [Lion(decayed(plan, parameters, 0.3), 0.004, (0.8, 0.95))]

    plan, weights, exact, _ = run(options, clip, their)
    equal(plan, weights, exact, 100 * EPS)


@pytest.mark.parametrize("clip", [None, 3.0])
def test_schedule_free_adamw(clip: float | None) -> None:
    options = {"kind": "schedule_free_adamw", "lr": 0.02, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.2}

    def their(plan: Any, parameters: dict[str, Any]) -> list[Any]:
        return [ScheduleFree(decayed(plan, parameters, 0.2), 0.02, (0.9, 0.99), 1e-6)]

    plan, weights, exact, _ = run(options, clip, their)
    equal(plan, weights, exact, 100 * EPS)


def test_averages_are_those_of_torch() -> None:
    """torch.optim.swa_utils.AveragedModel with our decay of each step, over fifty steps."""
    plan = plan_of(MODEL, optimizer={"kind": "sgd", "lr": 0.05}, max_grad_norm=None, ema=0.9)
    steps, w = Steps(plan.phases[0], backend("CPU")), drawn_weights(plan.model, 1)
    weights, state, sums, common = Inputs().put(w), Inputs().put(states_at_first(plan, w)), Inputs(), Inputs()
    names = {name: name.replace(".", "_") for name in w}
    model = torch.nn.ParameterDict(
        {names[n]: torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for n, v in w.items()}
    )
    averaged = torch.optim.swa_utils.AveragedModel(
        model, avg_fn=lambda mean, new, n: mean + (1 - min(0.9, (1 + int(n)) / (10 + int(n)))) * (new - mean)
    )
    averaged.update_parameters(model)  # the first is a copy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(1, STEPS + 1):
        g = drawn_weights(plan.model, 100 + step)
        inputs = common.put({"scalars": np.array(steps.updates.numbers(1.0, step, STEPS), np.float32)})
        steps.apply(weights, state, sums.put(g), {**inputs, **backend("CPU").inputs})
        for name, short in names.items():
            model[short].grad = torch.tensor(g[name], dtype=torch.float64)
        optimizer.step()
        averaged.update_parameters(model)
    exact = {name: averaged.module[short].detach().numpy() for name, short in names.items()}
    equal(plan, weights, exact, 100 * EPS)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon(nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch iterates in bfloat16; here it is made to keep float64, so that the bound can be tight."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    rest = {"kind": "adamw", "lr": 0.01, "weight_decay": 0.3}
    options = {"kind": "muon", "lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1, "adamw": rest}

    def their(plan: Any, parameters: dict[str, Any]) -> list[Any]:
        roles = {t.name: t.role for t in plan.model.tensors}
        hidden = [p for n, p in parameters.items() if roles[n] == "matrix"]
        others = {n: p for n, p in parameters.items() if roles[n] != "matrix"}
        muon = torch.optim.Muon(hidden, lr=0.02, momentum=0.9, nesterov=nesterov, weight_decay=0.1)
        return [muon, torch.optim.AdamW(decayed(plan, others, 0.3), lr=0.01, betas=(0.9, 0.95))]

    plan, weights, exact, _ = run(options, None, their)
    equal(plan, weights, exact, 2000 * EPS, "matrix")
    for role in ("embedding", "head", "norm", "bias"):
        equal(plan, weights, exact, 100 * EPS, role)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("plain", [False, True])
def test_cross_entropy(smoothing: float, plain: bool, z_loss: float) -> None:
    rng, low = np.random.default_rng(3), backend("CPU", plain)
    x, w = ((rng.standard_normal(shape) * 1.5).astype(np.float32) for shape in ((5, 7), (24, 7)))
    g, ids = rng.standard_normal(5).astype(np.float32), rng.integers(0, 24, 5).astype(np.int32)
    t = Inputs().put({"x": x, "w": w, "g": g, "ids": ids})
    losses = low.ops(low.inputs).linear_cross_entropy(t["x"], Linear(t["w"]), t["ids"], smoothing, z_loss=z_loss)
    back = (losses * t["g"]).sum().gradient(t["x"], t["w"])
    made = [out.contiguous() for out in (losses, *back)]
    type(losses).realize(*made)
    hidden, head = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w))
    exact = torch.nn.functional.cross_entropy(
        hidden @ head.T, torch.tensor(ids).long(), reduction="none", label_smoothing=smoothing
    )
    exact = exact + z_loss * torch.logsumexp(hidden @ head.T, -1) ** 2
    (exact * torch.tensor(g)).sum().backward()
    for ours, theirs in zip(made, (exact.detach(), hidden.grad, head.grad), strict=True):
        np.testing.assert_allclose(memory(ours), theirs.numpy(), rtol=0, atol=400 * EPS)
