"""DPO and its kinds, ORPO and KTO beside TRL: the same answers under the same next-token model give the same loss,
gradient and metrics. Its trainers are made without their set-up; what they compute of a batch is their own code.

Where TRL differs from the papers: IPO divides log-ratios by the tokens of their answers, as its authors say they did;
ORPO's cross entropy counts the tokens of prompts, too, where the paper has the answer's alone, which is compared here;
the KL term of KTO pairs each prompt with the answer before it, where the paper has the one behind it.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import answer_cases as cases
import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tinygrad import Tensor  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.data.documents import answers  # noqa: E402
from llmspec.data.layout import Batch  # noqa: E402
from llmspec.data.rotated import texts_of  # noqa: E402
from llmspec.model.device import open_device  # noqa: E402
from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.objectives.base import Outputs  # noqa: E402
from llmspec.parts.objectives.dpo import DPO  # noqa: E402
from llmspec.parts.objectives.kto import KTO  # noqa: E402
from llmspec.parts.objectives.orpo import ORPO  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402
from llmspec.training.tasks.kto import behind_others  # noqa: E402

D, V, K = 16, cases.VOCAB, 4
GOOD = [[1, 0, 0, 1], [1, 1, 0, 0]]
CASES: dict[str, tuple[DPO, dict[str, Any]]] = {
    "sigmoid": (DPO(), {"loss_types": ["sigmoid"]}),
    "hinge": (DPO(loss="hinge", beta=0.05), {"loss_types": ["hinge"]}),
    "ipo": (DPO(loss="ipo", beta=0.7), {"loss_types": ["ipo"]}),
    "robust": (DPO(loss="robust", label_smoothing=0.2), {"loss_types": ["robust"], "label_smoothing": 0.2}),
    "normalised": (DPO(length_normalised=True, beta=2.0), {"loss_types": ["sigmoid_norm"]}),
    "rpo": (DPO(rpo_alpha=0.7), {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
}


class Bigrams:
    """The next token by the last one alone: log-probabilities as a fused head of transformers gives them."""

    training = True

    def __init__(self, table: Any, layer: Any) -> None:
        self.table, self.layer = table, layer

    def __call__(self, input_ids: Any, labels: Any, **rest: Any) -> Any:
        logits = self.table[input_ids[:, :-1]] @ self.layer.T
        said = labels[:, 1:]
        own = torch.log_softmax(logits, -1).gather(-1, said.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        zeros = torch.zeros_like(own)
        own = torch.where(said == -100, zeros, own)
        return SimpleNamespace(log_probs=own, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), aux_loss=None)


def made(trainer: type, **settings: Any) -> Any:
    """A trainer of TRL without its set-up."""
    found = object.__new__(trainer)
    found.accelerator = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x, device="cpu")
    found.model = SimpleNamespace(training=True)
    found.aux_loss_enabled, found._metrics = False, {"train": defaultdict(list)}
    found._total_train_tokens, found._tp_size = 0, 1
    for name, value in settings.items():
        setattr(found, name, value)
    return found


def padded(texts: list[tuple[list[int], list[int]]], prefix: str = "") -> dict[str, Any]:
    """Ids and masks of texts, as TRL's collators make them."""
    longest = max(len(p) + len(a) for p, a in texts)
    ids, said = torch.zeros(len(texts), longest, dtype=torch.long), torch.zeros(len(texts), longest, dtype=torch.long)
    for i, (prompt, answer) in enumerate(texts):
        ids[i, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        said[i, len(prompt) : len(prompt) + len(answer)] = 1
    there = torch.ones_like(ids)
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": there, f"{prefix}completion_mask": said}


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    return dice.standard_normal((V, D)).astype(np.float32), (dice.standard_normal((V, D)) / 4).astype(np.float32)


def holds(table: np.ndarray, layer: np.ndarray, batch: Batch) -> np.ndarray:
    """(B, K) log-probabilities of the answers of a batch, in float64."""
    logits = table[batch.tokens].astype(np.float64) @ layer.T.astype(np.float64)
    own = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(own, batch.targets[..., None], -1)[..., 0]
    return np.einsum("bkt,bt->bk", answers(batch, K).astype(np.float64), own)


def ours(part: Any, batch: Batch, kl: float = 0.0, plain: bool = False) -> tuple[dict[str, float], np.ndarray]:
    """(means over the batch, gradient of the loss by the table)."""
    table, layer = drawn(1)
    arrays = part.arrays(batch, lambda n, *names: None, None)
    arrays["loss_weights"] = arrays["loss_weights"] / arrays["loss_weights"].sum()
    if part.compares:
        arrays["reference_logps"] = holds(*drawn(2), batch).astype(np.float32)
    if not part.in_pairs:
        arrays["kl"] = np.array([kl], np.float32)
    arrays["members"] = answers(batch, K)
    open_device("CPU")
    low = backend("CPU", plain)
    held = tensors_from_numpy(x=table[batch.tokens], layer=layer)
    rest = {**tensors_from_numpy(**arrays), **low.inputs}
    found = part.build(Dims(D, 1, cases.CONTEXT, V))(low.ops(rest), Outputs(held["x"], Linear(held["layer"])), rest)
    (gradient,) = found["loss"].gradient(held["x"])
    Tensor.realize(*found.values(), gradient)
    by_token = np.zeros((V, D), np.float64)
    np.add.at(by_token, batch.tokens.reshape(-1), to_numpy(gradient).reshape(-1, D))
    named = {m.name: m.value for m in part.metrics({n: float(to_numpy(t)) for n, t in found.items()} | UNIT, 0)}
    return named, by_token


UNIT = {"loss_weights": 1.0}


def same(found: dict[str, float], gradient: np.ndarray, loss: Any, theirs: dict[str, list[float]], table: Any) -> None:
    """Loss, gradient, and every metric that both have."""
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    wanted = table.grad.numpy()
    assert np.linalg.norm(gradient - wanted) <= 1e-5 * np.linalg.norm(wanted) and np.linalg.norm(wanted) > 0
    both = [name for name in theirs if name in found]
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"} <= set(both)
    for name in both:
        assert found[name] == pytest.approx(theirs[name][-1], rel=1e-5, abs=1e-6), name


def held(table: np.ndarray, layer: np.ndarray) -> tuple[Any, Any]:
    return torch.from_numpy(table.copy()).requires_grad_(True), torch.from_numpy(layer.copy())


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_dpo(case: str, plain: bool) -> None:
    from trl.trainer.dpo_trainer import DPOTrainer

    part, settings = CASES[case]
    batch = cases.batch_of(cases.TEXTS, K)
    texts = [pair for row in cases.TEXTS for pair in row]
    reference = holds(*drawn(2), batch)[batch.labels.weights > 0].astype(np.float32)  # type: ignore[union-attr]
    table, layer = held(*drawn(1))
    how = {"loss_weights": [1.0] * 2, "label_smoothing": 0.0, "beta": part.beta, **settings}
    how["loss_weights"] = how["loss_weights"][: len(how["loss_types"])]
    trainer = made(
        DPOTrainer, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", use_weighting=False, **how
    )
    inputs = padded([*texts[0::2], *texts[1::2]])
    inputs |= {"ref_chosen_logps": torch.tensor(reference[0::2]), "ref_rejected_logps": torch.tensor(reference[1::2])}
    loss = trainer._compute_loss(Bigrams(table, layer), inputs, False)
    same(*ours(part, batch, plain=plain), loss, trainer._metrics["train"], table)


@pytest.mark.parametrize(("margin", "smoothing"), [(0.8, 0.0), (0.0, 0.0), (0.5, 0.1)])
def test_simpo(margin: float, smoothing: float) -> None:
    """TRL tells the log-probability of an answer by the token here, and llmspec that of the whole answer."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    more = {"label_smoothing": smoothing, "target_margin": margin}
    part = DPO(reference_free=True, length_normalised=True, beta=2.0, **more)
    batch, (table, layer) = cases.batch_of(cases.TEXTS, K), held(*drawn(1))
    texts = [pair for row in cases.TEXTS for pair in row]
    inputs = padded([*texts[0::2], *texts[1::2]])
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    sizes = inputs["completion_mask"].sum(1)
    sums = Bigrams(table, layer)(inputs["input_ids"], labels).log_probs.sum(1)
    better, worse = (sums / sizes).chunk(2)
    trainer = made(CPOTrainer, loss_type="simpo", simpo_gamma=margin, beta=2.0, label_smoothing=smoothing, alpha=0.0)
    losses, chosen, rejected = trainer.cpo_loss(better, worse)
    theirs = {"rewards/chosen": [chosen.mean().item()], "rewards/rejected": [rejected.mean().item()]}
    theirs |= {"rewards/margins": [(chosen - rejected).mean().item()]}
    theirs |= {"logps/chosen": [sums.chunk(2)[0].mean().item()], "logps/rejected": [sums.chunk(2)[1].mean().item()]}
    same(*ours(part, batch), losses.mean(), theirs, table)


def test_orpo() -> None:
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    batch, (table, layer) = cases.batch_of(cases.TEXTS, K), held(*drawn(1))
    texts = [pair for row in cases.TEXTS for pair in row]
    inputs = padded([*texts[0::2], *texts[1::2]])
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    own = Bigrams(table, layer)(inputs["input_ids"], labels).log_probs
    sizes = inputs["completion_mask"].sum(1)
    better, worse = (own.sum(1) / sizes).chunk(2)
    chosen = inputs["completion_mask"][: len(better), 1:].bool()
    nll, nothing = -own[: len(better)][chosen].mean(), torch.zeros(1)
    trainer = made(ORPOTrainer, beta=0.5)
    trainer.concatenated_forward = lambda model, batch: (better, worse, nothing, nothing, nll)
    loss, theirs = trainer.get_batch_loss_metrics(None, {})
    found, gradient = ours(ORPO(beta=0.5), batch)
    same(found, gradient, loss, {name: [value] for name, value in theirs.items()}, table)
    assert {"nll_loss", "log_odds_ratio", "log_odds_chosen"} <= found.keys() & theirs.keys()


@pytest.mark.parametrize("turned", [False, True])
def test_kto(turned: bool) -> None:
    """The KL term, too, is estimated by both from the same answers behind the same other prompts; `turned`, reference
    and policy change places, so that one of the two is cut at 0."""
    from trl.trainer.kto_trainer import KTOTrainer

    part = KTO(beta=0.2, desirable_weight=1.3, undesirable_weight=0.7)
    batch, (table, layer) = cases.batch_of(cases.TEXTS, K, GOOD), held(*drawn(1))
    policy, reference = (behind_others(batch, lambda b, i=i: holds(*drawn(i), b)) for i in (1, 2))  # type: ignore[misc]
    kl = policy - reference if not turned else reference - policy
    texts = [(t.prompt, t.answer) for t in texts_of(batch)]
    mixed = [(prompt, texts[i - 1][1]) for i, (prompt, _) in enumerate(texts)]
    labels = [bool(GOOD[t.row][t.nth]) for t in texts_of(batch)]
    there = batch.labels.weights > 0  # type: ignore[union-attr]
    frozen = Bigrams(*(torch.from_numpy(w) for w in drawn(2)))
    asked = padded(mixed, "KL_")
    masked = asked["KL_input_ids"].masked_fill(asked["KL_completion_mask"] == 0, -100)
    before = frozen(asked["KL_input_ids"], masked).log_probs.sum(1)
    if turned:  # the reference is as far beyond the policy as the policy was beyond it
        now = Bigrams(table, layer)(asked["KL_input_ids"], masked).log_probs.sum(1).detach()
        before = 2 * now - before
    trainer = made(
        KTOTrainer,
        calculate_KL=True,
        precompute_ref_logps=True,
        loss_type="kto",
        beta=0.2,
        desirable_weight=1.3,
        undesirable_weight=0.7,
    )
    inputs = {**padded(texts), **asked, "label": torch.tensor(labels), "ref_KL_logps": before}
    inputs["ref_logps"] = torch.tensor(holds(*drawn(2), batch)[there].astype(np.float32))
    loss = trainer._compute_loss(Bigrams(table, layer), inputs, False)
    found, gradient = ours(part, batch, kl)
    same(found, gradient, loss, trainer._metrics["train"], table)
    assert found["kl"] == pytest.approx(max(0.0, kl), rel=1e-5) and (kl > 0) != (found["kl"] == 0)
