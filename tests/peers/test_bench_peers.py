"""The sides of a benchmark compute the same: PyTorch's model and steps, and transformers' LLaMA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

import reference  # noqa: E402
from encoders import MODELS as ENCODERS  # noqa: E402
from hypothesis import assume, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from networks import EPS, NETWORKS, VOCAB, apart, drawn_weights, model_of, plan_of  # noqa: E402
from published import ARCHITECTURES, WITH_DATA, small  # noqa: E402
from strategies_models import models  # noqa: E402

from llmspec.bench import llmspec_side, torch_side  # noqa: E402
from llmspec.bench.peer_support import KNOWN, require  # noqa: E402
from llmspec.bench.task import BenchError, Task  # noqa: E402
from llmspec.bench.torch_peer import Peer  # noqa: E402
from llmspec.compiler.plan import ModelPlan, Plan  # noqa: E402

GPT2 = {
    "position": {"kind": "learned"},
    "attention": {"kind": "multi_head", "heads": 2, "bias": True},
    "mlp": {"kind": "gelu", "bias": True},
    "norm": {"kind": "layernorm"},
}
LLAMA = {"position": {"kind": "rope"}, "attention": {"kind": "grouped_query", "heads": 4, "kv_heads": 2}}
PHASES: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": {"kind": "adamw", "lr": 0.01}, "max_grad_norm": 0.1},
    "adam, smoothed": {
        "optimizer": {"kind": "adam", "lr": 0.01, "weight_decay": 0.1},
        "max_grad_norm": None,
        "objective": {"kind": "cross_entropy", "label_smoothing": 0.1},
    },
    "sgd, passes, documents": {
        "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
        "gradient_accumulation_steps": 2,
        "document_mask": True,
    },
}


def peer_logits(
    plan: ModelPlan,
    weights: dict[str, np.ndarray],
    tokens: np.ndarray,
    documents: np.ndarray | None,
    positions: np.ndarray | None,
    source: np.ndarray | None = None,
) -> np.ndarray:
    peer = Peer(plan).double().eval()
    own = dict(peer.named_parameters())
    assert own.keys() == {t.name for t in plan.tensors}
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(torch.from_numpy(weights[name]))
        read = [None if x is None else torch.from_numpy(x).long() for x in (tokens, documents, positions, source)]
        return peer(*read).numpy()


def same_logits(plan: ModelPlan, lengths: list[int] | None, seed: int) -> None:
    """Against the reference in float64, whole or cut into documents of these lengths."""
    weights, rng = drawn_weights(plan, seed), np.random.default_rng(seed)
    tokens, documents, positions = rng.integers(0, VOCAB, (2, plan.context)), None, None
    if lengths is not None:
        edges = np.minimum(np.cumsum(lengths), plan.context)
        documents = np.tile(np.searchsorted(edges, np.arange(plan.context), side="right"), (2, 1))
        positions = np.stack([reference.restarted(row) for row in documents])
    exact = np.stack(
        [
            reference.row_logits(plan, reference.double(weights), row, None if documents is None else documents[i])
            for i, row in enumerate(tokens)
        ]
    )
    assert apart(peer_logits(plan, weights, tokens, documents, positions), exact) < 100 * EPS


def known(plan: ModelPlan) -> bool:
    """Whether the peer has such models; what it refuses has tests of its own."""
    try:
        require("torch", plan)
    except BenchError:
        return False
    return True


@given(models(), st.none() | st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 9))
def test_drawn_models(model: dict[str, Any], lengths: list[int] | None, seed: int) -> None:
    plan = plan_of(model).model
    assume(known(plan) and plan.encoder is None)  # encoders have a test of their own
    same_logits(plan, lengths, seed)


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if known(network.model)])
def test_every_part(name: str) -> None:
    same_logits(NETWORKS[name].model, None, 1)
    same_logits(NETWORKS[name].model, [5, 4], 1)


@pytest.mark.parametrize("name", ["plain", "apart", "kinds", "parallel"])
def test_encoders(name: str) -> None:
    same_pairs(model_of(ENCODERS[name]))


def same_pairs(plan: ModelPlan) -> None:
    """Against the reference in float64, of a decoder that reads an encoder's text."""
    weights, rng = drawn_weights(plan, 1), np.random.default_rng(1)
    tokens, source = rng.integers(0, VOCAB, (2, plan.context)), rng.integers(0, VOCAB, (2, plan.encoder_context))
    exact = np.stack(
        [reference.pair_logits(plan, reference.double(weights), t, s) for t, s in zip(tokens, source, strict=True)]
    )
    assert apart(peer_logits(plan, weights, tokens, None, None, source), exact) < 100 * EPS


@pytest.mark.parametrize("name", [*ARCHITECTURES, *WITH_DATA])
def test_every_published_architecture(name: str) -> None:
    """The peer knows all of its parts, and computes the same."""
    plan = small(name).model
    if plan.encoder is None:
        same_logits(plan, None, 2)
    else:
        same_pairs(plan)


EXPERTS: dict[str, Any] = {
    **LLAMA,
    "blocks": {
        "softmax": {"mlp": {"kind": "mixture_of_experts", "experts": 5, "expert": {"kind": "swiglu", "d_ff": 40}}},
        "sigmoid": {
            "mlp": {
                "kind": "mixture_of_experts",
                "experts": 6,
                "top_k": 3,
                "router": "sigmoid",
                "router_bias": True,
                "normalise": False,
                "scale": 1.5,
                "expert": {"kind": "gelu", "d_ff": 40, "bias": True},
                "shared": {"kind": "geglu", "d_ff": 30},
                "shared_gate": True,
                "balance": 0.5,
            }
        },
    },
    "pattern": ["softmax", "sigmoid"],
}


@pytest.mark.parametrize(
    "model", [GPT2, LLAMA, {"encoder": {"context": 9}}, EXPERTS], ids=["gpt2", "llama", "encoder", "experts"]
)
@pytest.mark.parametrize("name", PHASES)
def test_three_steps(model: dict[str, Any], name: str) -> None:
    """Losses before and after two updates: batches, passes, mask, gradients, clipping and optimizer are the same."""
    apart_too = {} if "encoder" in model else PHASES[name]
    phase = {k: v for k, v in PHASES[name].items() if k != "document_mask"} | apart_too
    plan = plan_of(model, micro_batch_size=2, **phase)
    our, their = llmspec_side.Training(plan, plan.phases[0]), torch_side.Training(plan, plan.phases[0])
    losses = [(our.advance(), their.advance()) for _ in range(3)]
    assert len({round(a, 4) for a, _ in losses}) == 3
    for a, b in losses:
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize("name", ["bert-base", "modernbert-base", "roberta-base"])
def test_three_steps_on_masked_tokens(name: str) -> None:
    """Both sides hide and ask for the same tokens."""
    plan = small(name)
    our, their = llmspec_side.Training(plan, plan.phases[0]), torch_side.Training(plan, plan.phases[0])
    losses = [(our.advance(), their.advance()) for _ in range(3)]
    assert len({round(a, 4) for a, _ in losses}) == 3
    for a, b in losses:
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of itself
def test_a_compiled_step_is_the_same_step() -> None:
    plan = plan_of(GPT2, micro_batch_size=2, **PHASES["adamw"])
    eager, made = (torch_side.Training(plan, plan.phases[0]) for _ in range(2))
    eager.advance()
    torch_side.compile_passes(made)  # takes its first step
    for _ in range(2):
        assert made.advance() == pytest.approx(eager.advance(), rel=1e-5)
    found = torch_side.run(task(plan, "torch.compile", "train"))
    assert found.name.startswith("torch.compile ") and max(found.seconds) < 1


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any) -> Any:
        def fails(*args: Any) -> Any:
            raise RuntimeError("no C++ compiler\nmore")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    plan = plan_of(GPT2)
    with pytest.raises(BenchError, match=r"here: no C\+\+ compiler\n") as caught:
        torch_side.compile_passes(torch_side.Training(plan, plan.phases[0]))
    assert "g++" in caught.value.problems[0].hint


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
def test_muon_and_its_rest() -> None:
    """torch iterates in bfloat16, which has 8 bits."""
    plan = plan_of(LLAMA, optimizer={"kind": "muon", "lr": 0.02, "adamw": {"lr": 0.01}})
    our, their = llmspec_side.Training(plan, plan.phases[0]), torch_side.Training(plan, plan.phases[0])
    for room in (1e-5, 1e-3, 1e-3):
        assert our.advance() == pytest.approx(their.advance(), rel=room)


def test_dropout_is_left_out_of_the_comparison() -> None:
    plan = plan_of({**GPT2, "dropout": 0.3})
    our, their = llmspec_side.Training(plan, plan.phases[0]), torch_side.Training(plan, plan.phases[0])
    assert our.first_loss() == pytest.approx(their.first_loss(), rel=1e-5)
    assert our.advance() != pytest.approx(our.first_loss(), rel=1e-3)


def test_a_part_that_the_peer_does_not_have_is_a_plain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(LLAMA).model
    monkeypatch.setitem(KNOWN["torch"], "position", ("learned",))
    with pytest.raises(BenchError, match="rope") as caught:
        Peer(plan)
    assert "learned" in caught.value.problems[0].hint


def task(plan: Plan, side: Any, work: Any) -> Task:
    return Task(side=side, work=work, plan=plan, phase="p", steps=3)


@pytest.mark.parametrize("work", ["prefill", "decode"])
@pytest.mark.parametrize(
    "model", [{}, {"heads": {"lm": {"kind": "lm", "tied": False}}, "norm": {"kind": "rmsnorm", "eps": 1e-3}}]
)
def test_transformers_reads_the_same_model(model: dict[str, Any], work: str) -> None:
    transformers_side = pytest.importorskip("llmspec.bench.transformers_side")
    plan = plan_of({**LLAMA, **model})
    made = [
        side.run(task(plan, name, work))
        for side, name in ((llmspec_side, "llmspec"), (transformers_side, "transformers"))
    ]
    np.testing.assert_allclose(made[0].check, made[1].check, rtol=1e-4, atol=1e-6)
    assert len(made[0].seconds) == len(made[1].seconds) == 3


def test_what_is_no_llama_is_refused_with_reasons() -> None:
    transformers_side = pytest.importorskip("llmspec.bench.transformers_side")
    with pytest.raises(BenchError, match="learned"):
        transformers_side.run(task(plan_of(GPT2), "transformers", "prefill"))
