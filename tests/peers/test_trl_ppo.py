"""PPO: rewards by token, advantages, whitening, losses, gradients and entropy are those of TRL's PPOTrainer.

TRL 1.9 is the last that has one. Where the folder it is unpacked in is named by LLMSPEC_TRL_PPO, the statements of its
`train` are carried out here as they stand there, on numbers of our own.

It differs from the paper in one thing: of an answer that ends before the longest, it gives the score one place behind
the last token, and trains the value of the state there, too. Ours gives it with the last token. Given TRL's mask, our
functions say what TRL says; over our own, what the formulas say (tests/properties/test_advantages.py, test_ppo.py).
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

from tinygrad import Tensor  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.model.device import open_device  # noqa: E402
from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.objectives.base import Outputs  # noqa: E402
from llmspec.parts.objectives.ppo import PPO, with_entropy  # noqa: E402
from llmspec.parts.objectives.value_function import ValueFunction  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402
from llmspec.training import advantages  # noqa: E402

VARIABLE = "LLMSPEC_TRL_PPO"
SOURCE = "trl/experimental/ppo/ppo_trainer.py"
E, M, D, V = 7, 9, 12, 33
"""Answers, tokens of the longest, width, vocabulary."""


class Statements:
    """Statements of TRL's file, by what they assign."""

    def __init__(self) -> None:
        folder = os.environ.get(VARIABLE)
        if not folder:
            pytest.skip(f"{VARIABLE} does not name a folder with TRL 1.9, the last that has PPO")
        tree = ast.parse((Path(folder) / SOURCE).read_text())
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        self.train = next(f for f in functions if f.name == "train")
        self.helpers = [f for f in functions if f.name in ("masked_mean", "masked_var", "masked_whiten")]
        self.constants = [
            n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n).startswith("INVALID_LOGPROB")
        ]

    def between(self, first: str, last: str) -> list[ast.stmt]:
        """Those of the innermost block that assigns `first`, from that to the last that assigns `last`."""
        for block in self._blocks(self.train):
            assigned = [ast.unparse(n).partition(" = ")[0] for n in block]
            if first in assigned and last in assigned:
                end = len(assigned) - assigned[::-1].index(last)
                return block[assigned.index(first) : end]
        raise AssertionError(f"TRL's train assigns no `{first}` … `{last}` any more")

    def _blocks(self, node: ast.AST) -> Iterator[list[ast.stmt]]:
        for child in ast.iter_child_nodes(node):
            yield from self._blocks(child)
        if isinstance(body := getattr(node, "body", None), list):
            yield body

    def run(self, statements: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
        """The names that there are afterwards."""
        space = {"torch": torch, "empty_cache": lambda: None, **names}
        calls = [n for n in statements if "accelerator" not in ast.unparse(n) and "optimizer" not in ast.unparse(n)]
        made = ast.Module([*self.constants, *self.helpers, *calls], [])
        exec(compile(made, SOURCE, "exec"), space)
        return space


class Drawn:
    """Answers with what a rollout knows of them: of full length, or some of them shorter."""

    def __init__(self, shorter: bool) -> None:
        dice = np.random.default_rng(3)
        self.lengths = dice.integers(2, M + 1, E) if shorter else np.full(E, M)
        self.lengths[0] = M
        self.mask = np.arange(M) < self.lengths[:, None]
        self.logps, self.reference = -np.abs(dice.standard_normal((2, E, M)))
        self.values, self.scores = dice.standard_normal((E, M)), 3 * dice.standard_normal(E)
        self.ended = dice.integers(0, 2, E) > 0
        self.behind = np.arange(M) < np.minimum(self.lengths + 1, M)[:, None]
        """The mask with the place behind each shorter answer, which TRL counts."""

    def theirs(self, found: Statements, **args: Any) -> dict[str, Any]:
        """What TRL makes of them."""
        ends = torch.where(torch.tensor(self.ended)[:, None], torch.tensor([[2]]), torch.tensor([[1]]))
        given = {
            "args": SimpleNamespace(
                **{"kl_coef": 0.1, "gamma": 1.0, "lam": 0.95, "kl_estimator": "k1", "whiten_rewards": False, **args}
            ),
            "self": SimpleNamespace(
                args=SimpleNamespace(missing_eos_penalty=args.get("penalty")),
                processing_class=SimpleNamespace(eos_token_id=2),
            ),
            "postprocessed_responses": ends,
            "responses": torch.zeros(E, M),
            "sequence_lengths": torch.tensor(self.lengths - 1),
            **{n: torch.tensor(a) for n, a in (("logprobs", self.logps), ("ref_logprobs", self.reference))},
            **{n: torch.tensor(a.copy()) for n, a in (("values", self.values), ("scores", self.scores))},
        }
        space = found.run(found.between("contain_eos_token", "advantages"), given)
        return {n: space[n].numpy() for n in ("kl", "rewards", "advantages", "returns", "scores")}


ROLLOUTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "k3": {"kl_estimator": "k3", "kl_coef": 0.5},
    "short sight": {"gamma": 0.9, "lam": 0.5},
    "penalty": {"penalty": 2.5},
    "whitened rewards": {"whiten_rewards": True},
}


def rolled(case: Drawn, trl: Statements, args: dict[str, Any], fault: str = "") -> None:
    theirs, own = case.theirs(trl, **args), case.behind
    kl = advantages.kl_estimates(case.logps, case.reference, case.mask, args.get("kl_estimator", "k1"))
    np.testing.assert_allclose(kl * case.mask, theirs["kl"], rtol=1e-12, atol=1e-12)
    scores = advantages.answer_scores(case.scores, case.ended, missing_end_penalty=args.get("penalty"))
    np.testing.assert_allclose(scores, theirs["scores"], rtol=1e-12)
    coefficient = args.get("kl_coef", 0.1) * (-1 if fault == "sign" else 1)
    rewards = advantages.token_rewards(scores, kl * case.mask, case.mask if fault == "off by one" else own, coefficient)
    if args.get("whiten_rewards"):
        rewards = advantages.whitened(rewards, own, shift_mean=False)
    near = 1e-6 if args.get("whiten_rewards") else 1e-10  # torch divides two counts in float32
    np.testing.assert_allclose(rewards, theirs["rewards"], rtol=near, atol=near)
    gains = advantages.gae(rewards, case.values, own, args.get("gamma", 1.0), args.get("lam", 0.95))
    np.testing.assert_allclose(gains.returns, theirs["returns"] * own, rtol=near, atol=near)
    white = advantages.whitened(gains.advantages, own if fault == "mask" else case.mask)
    np.testing.assert_allclose(white, theirs["advantages"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shorter", [False, True])
@pytest.mark.parametrize("name", ROLLOUTS)
def test_rewards_advantages_and_returns(name: str, shorter: bool) -> None:
    rolled(Drawn(shorter), Statements(), ROLLOUTS[name])


@pytest.mark.parametrize("fault", ["sign", "off by one", "mask"])
def test_what_is_wrong_in_a_rollout_is_seen(fault: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        rolled(Drawn(True), Statements(), {}, fault)


# -- losses ------------------------------------------------------------------------------------------------------------
UPDATES: dict[str, tuple[PPO, float]] = {
    "usual": (PPO(), 1.0),
    "cold": (PPO(clip_range=0.1, value=ValueFunction(coefficient=2.0, clip_range=0.4)), 0.7),
}


Arrays = dict[str, np.ndarray]


def ours(part: PPO, temperature: float, plain: bool, arrays: Arrays, targets: np.ndarray, known: Arrays) -> Arrays:
    """What our objective makes of states and heads, with gradients."""
    ones = np.ones((E, M), np.float32)
    open_device("CPU")
    low = backend("CPU", plain)
    rest = tensors_from_numpy(
        targets=targets,
        answers=ones,
        loss_weights=ones / (E * M),
        loss_scale=np.ones(1, np.float32),
        inverse_temperature=np.array([1 / temperature], np.float32),
        **known,
    )

    def computed(t: dict[str, Tensor], rest: dict[str, Tensor]) -> dict[str, Tensor]:
        valued = Outputs(t["x"], Linear(t["v"], None))
        outputs, ops = Outputs(t["x"], Linear(t["w"], None), heads={"value": valued}), low.ops(rest)
        found = part.build(Dims(D, 1, M, V))(ops, outputs, rest)
        found |= dict(zip("xwv", found["loss"].gradient(t["x"], t["w"], t["v"]), strict=True))
        found["entropy"] = with_entropy(ops, outputs, rest)[1].mean()
        Tensor.realize(*found.values())
        return found

    return {n: to_numpy(t) for n, t in computed(tensors_from_numpy(**arrays), {**rest, **low.inputs}).items()}


def theirs(
    part: PPO, temperature: float, arrays: Arrays, targets: np.ndarray, known: Arrays
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(states and heads as torch has them, what TRL makes of them)."""
    trl = Statements()
    tensors = {n: torch.from_numpy(a.copy()).requires_grad_(True) for n, a in arrays.items()}
    pad = torch.zeros(E, 1, D)  # of the last token, which TRL leaves out
    states = torch.cat([tensors["x"], pad], 1)
    given = {
        "forward": lambda *_: (SimpleNamespace(logits=states @ tensors["w"].T), states @ tensors["v"].T),
        "selective_log_softmax": lambda logits, ids: torch.log_softmax(logits, -1).gather(-1, ids[..., None])[..., 0],
        "model": None,
        "processing_class": SimpleNamespace(pad_token_id=0),
        "context_length": 1,
        "micro_batch_inds": slice(None),
        "args": SimpleNamespace(
            temperature=temperature,
            cliprange=part.clip_range,
            cliprange_value=part.value.clip_range,
            vf_coef=part.value.coefficient,
        ),
        "padding_mask": torch.zeros(E, M, dtype=torch.bool),
        "padding_mask_p1": torch.zeros(E, M, dtype=torch.bool),
        "mb_query_responses": None,
        "mb_responses": torch.from_numpy(targets).long(),
        "mb_logprobs": torch.from_numpy(known["old_logps"]),
        "mb_advantage": torch.from_numpy(known["advantages"]),
        "mb_return": torch.from_numpy(known["returns"]),
        "mb_values": torch.from_numpy(known["old_values"]),
    }
    return tensors, trl.run(trl.between("output, vpred_temp", "loss") + trl.between("pg_clipfrac", "approxkl"), given)


def updated(part: PPO, temperature: float, plain: bool = False) -> None:
    """A pass over answers of full length: losses, their gradients, and what is counted of them."""
    dice = np.random.default_rng(4)
    arrays = {
        name: dice.standard_normal(shape).astype(np.float32)
        for name, shape in {"x": (E, M, D), "w": (V, D), "v": (1, D)}.items()
    }
    targets = dice.integers(0, V, (E, M)).astype(np.int32)
    logits = torch.from_numpy(arrays["x"] @ arrays["w"].T) / temperature
    own = torch.log_softmax(logits, -1).gather(-1, torch.from_numpy(targets).long()[..., None])[..., 0].numpy()
    values = (arrays["x"] @ arrays["v"].T)[..., 0]
    known = {
        "old_logps": own + 0.3 * dice.standard_normal((E, M)),
        "advantages": dice.standard_normal((E, M)),
        "returns": values + dice.standard_normal((E, M)),
        "old_values": values + 0.5 * dice.standard_normal((E, M)),
    }
    known = {n: a.astype(np.float32) for n, a in known.items()}
    made = ours(part, temperature, plain, arrays, targets, known)
    tensors, space = theirs(part, temperature, arrays, targets, known)
    space["loss"].backward()
    pairs = {
        "loss": (made["loss"], space["loss"]),
        "policy": (made["policy_loss"] / (E * M), space["pg_loss"]),
        "value": (made["value_loss"] / (E * M), space["vf_loss"]),
        "clip_fraction": ((made["clip_low"] + made["clip_high"]) / (E * M), space["pg_clipfrac"]),
        "value_clip_fraction": (made["value_clip_fraction"] / (E * M), space["vf_clipfrac"]),
        "approx_kl": (made["approx_kl"] / (E * M), space["approxkl"]),
        "entropy": (made["entropy"], space["entropy"].mean()),
    }
    for name, (mine, wanted) in pairs.items():
        assert float(mine) == pytest.approx(float(wanted.detach()), rel=1e-5), name
        assert float(wanted.detach()) != 0, f"{name} shows something"
    for name, tensor in tensors.items():
        wanted = tensor.grad.numpy()
        assert np.linalg.norm(made[name] - wanted) <= 1e-5 * np.linalg.norm(wanted), name


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", UPDATES)
def test_losses_gradients_and_what_is_counted(name: str, plain: bool) -> None:
    updated(*UPDATES[name], plain)


class Unhalved(PPO):
    """The squared error of the values, not half of it."""

    kind: Literal["unhalved"] = "unhalved"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right = super().build(dims)

        def loss(ops: Any, outputs: Any, inputs: Any) -> Any:
            found = right(ops, outputs, inputs)
            return {**found, "loss": found["loss"] + self.value.coefficient * found["value_loss"] / (E * M)}

        return loss


class Reversed(PPO):
    """Worse answers are better."""

    kind: Literal["reversed"] = "reversed"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right = super().build(dims)
        return lambda ops, outputs, inputs: right(ops, outputs, {**inputs, "advantages": -inputs["advantages"]})


@pytest.mark.parametrize("wrong", [Unhalved, Reversed])
def test_what_is_wrong_in_a_loss_is_seen(wrong: type[PPO]) -> None:
    with pytest.raises(AssertionError):
        updated(wrong(), 1.0)
