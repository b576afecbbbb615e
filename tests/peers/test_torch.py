"""Optimizer steps, clipping and loss are those of torch, over ten steps from the same weights and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

from networks import EPS, Inputs, drawn_weights, memory, plan_of  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402  (networks opens the device)
from llmspec.model.steps import Steps  # noqa: E402

MODEL: dict[str, Any] = {
    "layers": 1,
    "position": {"kind": "learned"},
    "attention": {"kind": "multi_head", "heads": 2, "bias": True},
    "mlp": {"kind": "gelu", "d_ff": 24},
    "norm": {"kind": "layernorm"},
    "heads": {"lm": {"kind": "lm", "tied": False}},
}
STEPS = 10
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
    "AdamW": ({"kind": "adamw", "lr": 0.01, "beta1": 0.8, "weight_decay": 0.3}, {"betas": (0.8, 0.95)}),
}
"""Ours, and torch's name and settings beside learning rate and decay."""


def run(options: dict[str, Any], clip: float | None, their: Any) -> tuple[Any, Inputs, dict[str, Any], list[Any]]:
    """Ten steps of ours and of the optimizers that `their(plan, parameters)` makes, on the same gradients."""
    plan = plan_of(MODEL, optimizer=options, max_grad_norm=clip)
    part, steps = plan.phases[0].phase.optimizer, Steps(plan.phases[0], backend("CPU"))
    w = drawn_weights(plan.model, 1)
    weights, state, sums, common = Inputs().put(w), Inputs(), Inputs(), Inputs()
    state.put({n: np.zeros(shape, np.float32) for n, shape in steps.state_shapes().items()})
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
    return plan, weights, {n: p.detach().numpy() for n, p in parameters.items()}, norms


def decayed(plan: Any, parameters: dict[str, Any], amount: float) -> list[dict[str, Any]]:
    roles = {t.name: t.role for t in plan.model.tensors}
    free = [p for n, p in parameters.items() if roles[n] in ("norm", "bias")]
    rest = [p for n, p in parameters.items() if roles[n] not in ("norm", "bias")]
    return [{"params": rest, "weight_decay": amount}, {"params": free, "weight_decay": 0.0}]


def equal(plan: Any, weights: Inputs, exact: dict[str, Any], room: float, role: str | None = None) -> None:
    for t in plan.model.tensors:
        if role in (None, t.role):
            error = np.linalg.norm(memory(weights[t.name]) - exact[t.name])
            assert error <= room * np.linalg.norm(exact[t.name]), t.name


@pytest.mark.parametrize("clip", [None, 3.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_ten_steps(name: str, clip: float | None) -> None:
    options, extra = SETTINGS[name]

    def their(plan: Any, parameters: dict[str, Any]) -> list[Any]:
        groups = decayed(plan, parameters, options.get("weight_decay", 0.0))
        return [getattr(torch.optim, name.split()[0])(groups, lr=options["lr"], **extra)]

    plan, weights, exact, norms = run(options, clip, their)
    equal(plan, weights, exact, 100 * EPS)
    for our, other in norms:
        assert our == pytest.approx(other, rel=100 * EPS) and (clip is None or our > clip)


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
@pytest.mark.parametrize("plain", [False, True])
def test_cross_entropy(smoothing: float, plain: bool) -> None:
    rng, low = np.random.default_rng(3), backend("CPU", plain)
    x, w = ((rng.standard_normal(shape) * 1.5).astype(np.float32) for shape in ((5, 7), (24, 7)))
    g, ids = rng.standard_normal(5).astype(np.float32), rng.integers(0, 24, 5).astype(np.int32)
    t = Inputs().put({"x": x, "w": w, "g": g, "ids": ids})
    losses = low.ops(low.inputs).linear_cross_entropy(t["x"], t["w"], t["ids"], smoothing)
    back = (losses * t["g"]).sum().gradient(t["x"], t["w"])
    made = [out.contiguous() for out in (losses, *back)]
    type(losses).realize(*made)
    hidden, head = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, w))
    exact = torch.nn.functional.cross_entropy(
        hidden @ head.T, torch.tensor(ids).long(), reduction="none", label_smoothing=smoothing
    )
    (exact * torch.tensor(g)).sum().backward()
    for ours, theirs in zip(made, (exact.detach(), hidden.grad, head.grad), strict=True):
        np.testing.assert_allclose(memory(ours), theirs.numpy(), rtol=0, atol=400 * EPS)
