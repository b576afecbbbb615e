"""Pairs of a source and its target: loss and gradients of a step are those of transformers' T5 with `labels`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from networks import drawn_weights, model_of  # noqa: E402
from test_t5 import CONTEXT, QUIET, SOURCE, configs, names, peer_of, spec_of  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler import compile_spec  # noqa: E402
from llmspec.compiler.phase_model import phase_model  # noqa: E402
from llmspec.compiler.plan import PhasePlan  # noqa: E402
from llmspec.core.units import Budget, Share  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.layout import Batch, Pair, blank  # noqa: E402
from llmspec.data.pairs import AnswerLayout  # noqa: E402
from llmspec.data.tokens import TokenSet  # noqa: E402
from llmspec.parts.objectives.cross_entropy import CrossEntropy  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.seq2seq import Seq2Seq  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import ROLES, SpecialTokens  # noqa: E402
from llmspec.spec import load_spec  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

PAD = 0
LOSS, GRADIENTS = 1e-5, 1e-4
Changed = Callable[[dict[str, np.ndarray]], None]


def pairs(number: int, vocab: int) -> tuple[list[tuple[list[int], list[int]]], TokenSet]:
    """Three drawn pairs of different lengths, and the tokens that a phase reads them from."""
    rng = np.random.default_rng(number)
    made = [
        (rng.integers(2, vocab, s).tolist(), [*rng.integers(2, vocab, t - 1).tolist(), 1])
        for s, t in zip(rng.integers(1, SOURCE + 1, 3), rng.integers(1, CONTEXT + 1, 3), strict=True)
    ]
    roles, ends, said = list[int](), [0], np.zeros((len(made), len(ROLES)), np.int64)
    for i, (source, target) in enumerate(made):
        roles += [1 + ROLES.index("user")] * len(source) + [1 + ROLES.index("assistant")] * len(target)
        ends.append(len(roles))
        said[i, ROLES.index("user")], said[i, ROLES.index("assistant")] = len(source), len(target)
    tokens = np.array([t for source, target in made for t in (*source, *target)], np.uint16)
    return made, TokenSet(tokens, np.array(ends, np.int64), said, np.array(roles, np.uint8), said)


class WrongSign(CrossEntropy):
    """Targets become less likely."""

    kind: Literal["wrong_sign"] = "wrong_sign"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right = super().build(dims)
        return lambda *given: {name: -total for name, total in right(*given).items()}


def compare(
    config: Any,
    number: int,
    change: Changed = lambda arrays: None,
    objective: CrossEntropy = CrossEntropy(),  # noqa: B008
) -> None:
    """One step of both on the same pairs; `change` does something wrong to what ours reads."""
    network = model_of(spec_of(config))
    part = Seq2Seq(
        mixture={"a": Share(100.0)},
        budget=Budget(1.0, "steps"),
        micro_batch_size=3,
        optimizer=SGD(lr=1.0),
        max_grad_norm=None,
    ).model_copy(update={"objective": objective})
    model, problems = phase_model(network, part)
    assert not problems
    phase = PhasePlan(
        name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=model, makes="policy", flops=None
    )
    made, data = pairs(number, model.vocab)
    pair = Pair(SOURCE, PAD)
    layout = AnswerLayout(data, part.train_on, CONTEXT, PAD, pair, None)
    batch: Batch = blank(3, CONTEXT, PAD, pair)
    layout.gather(batch, np.arange(3), np.arange(3))
    arrays = BatchInputs(model, part, SpecialTokens(ids={"</s>": 1}, eos=1), (number,))(batch, 0)
    change(arrays)
    weights = drawn_weights(model, number)
    plan = plan_of()
    taken = Trainer(plan, phase, backend("CPU"), lambda t: weights[t.name])
    loss = taken.step([arrays], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
    found = {name: weights[name] - w for name, w in taken.weight_arrays().items()}

    ids, seen, labels = (np.full((3, n), v, np.int64) for n, v in ((SOURCE, PAD), (SOURCE, 0), (CONTEXT, -100)))
    for i, (source, target) in enumerate(made):
        ids[i, : len(source)], seen[i, : len(source)], labels[i, : len(target)] = source, 1, target
    peer = peer_of(config, model, weights)
    theirs = peer(
        input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(seen), labels=torch.from_numpy(labels)
    ).loss
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=LOSS)
    own = dict(peer.named_parameters())
    exact = {name: own[to].grad.numpy() for name, to in names(model).items()}
    least = 1e-6 * max(np.linalg.norm(g) for g in exact.values())
    for name, wanted in exact.items():
        error = np.linalg.norm(found[name] - wanted)
        assert error <= GRADIENTS * np.linalg.norm(wanted) + least, (name, error)


def plan_of() -> Any:
    """A plan whose seed and device a trainer reads."""
    import tiny

    return compile_spec(load_spec(tiny.ROOT / "docs" / "tiny.yaml").spec)


@seed(1)
@settings(max_examples=4, **QUIET)
@given(configs(), st.integers(0, 1 << 20))
def test_loss_and_gradients(config: Any, number: int) -> None:
    compare(config, number)


def padding_counts(arrays: dict[str, np.ndarray]) -> None:
    arrays["loss_weights"] = np.ones_like(arrays["loss_weights"])


def per_pair(arrays: dict[str, np.ndarray]) -> None:
    arrays["loss_weights"] = arrays["loss_weights"] / arrays["loss_weights"].sum(axis=1, keepdims=True)


def sees_its_target(arrays: dict[str, np.ndarray]) -> None:
    arrays["tokens"] = arrays["targets"]


def whole_source(arrays: dict[str, np.ndarray]) -> None:
    """The decoder looks at the encoder's padding, too."""
    for name in arrays:
        if name.startswith("ranges:cross"):
            arrays[name] = arrays[name].copy()
            arrays[name][..., 1] = SOURCE


@pytest.mark.parametrize("wrong", [padding_counts, per_pair, sees_its_target, whole_source])
def test_what_is_wrong_is_seen(wrong: Changed) -> None:
    @seed(3)
    @settings(max_examples=1, **QUIET)
    @given(configs())
    def check(config: Any) -> None:
        with pytest.raises(AssertionError):
            compare(config, 11, wrong)

    check()


def test_a_wrong_sign_is_seen() -> None:
    @seed(3)
    @settings(max_examples=1, **QUIET)
    @given(configs())
    def check(config: Any) -> None:
        compare(config, 11)
        with pytest.raises(AssertionError):
            compare(config, 11, objective=WrongSign())

    check()
