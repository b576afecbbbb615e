"""Span corruption: loss and gradients of a step are those of transformers' T5, whose inputs and `labels` other code
makes of the same text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import reference_spans  # noqa: E402
from hypothesis import given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from networks import drawn_weights, model_of  # noqa: E402
from test_seq2seq import GRADIENTS, LOSS, PAD, plan_of  # noqa: E402
from test_t5 import CONTEXT, QUIET, SOURCE, configs, names, peer_of, spec_of  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler.phase_model import phase_model  # noqa: E402
from llmspec.compiler.plan import PhasePlan  # noqa: E402
from llmspec.core.units import Budget, Share  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.layout import blank, pair_of  # noqa: E402
from llmspec.data.spans import SpanLayout, form_of  # noqa: E402
from llmspec.data.tokens import TokenSet  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.span_corruption import SpanCorruption  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import SpecialTokens  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

EOS, ROWS = 1, 3
Changed = Callable[[dict[str, np.ndarray]], None]


def compare(config: Any, number: int, density: float, mean: float, change: Changed = lambda arrays: None) -> None:
    """One step of both on the same text; `change` does something wrong to what ours reads."""
    network = model_of(spec_of(config))
    part = SpanCorruption(
        mixture={"a": Share(100.0)},
        budget=Budget(1.0, "steps"),
        micro_batch_size=ROWS,
        optimizer=SGD(lr=1.0),
        max_grad_norm=None,
        noise_density=density,
        mean_noise_span_length=mean,
    )
    model, problems = phase_model(network, part)
    assert not problems
    # The last ids, as T5's: the first sentinel is the largest.
    extra = {f"<extra_id_{i}>": model.vocab - 1 - i for i in range(10)}
    specials = SpecialTokens(
        ids={"<pad>": PAD, "</s>": EOS, **extra}, bos=PAD, eos=EOS, sentinels=tuple(extra.values()), after=(EOS,)
    )
    form, pair = form_of("p", part, model, specials), pair_of(model, specials)
    assert form is not None
    texts = np.random.default_rng(number).integers(2, model.vocab - 10, ROWS * form.size - 1).astype(np.uint16)
    # A document of that many tokens has an end token before it.
    data = TokenSet(texts, np.array([0, len(texts)], np.int64), np.array([len(texts)], np.int64))
    layout = SpanLayout(data, CONTEXT, EOS, form, (number,))
    batch = blank(ROWS, CONTEXT, PAD, pair)
    layout.gather(batch, np.arange(ROWS), np.arange(ROWS))
    arrays = BatchInputs(model, part, specials, (number,))(batch, 0)
    change(arrays)
    phase = PhasePlan(
        name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=model, makes="policy", flops=None
    )
    weights = drawn_weights(model, number)
    taken = Trainer(plan_of(), phase, backend("CPU"), lambda t: weights[t.name])
    loss = taken.step([arrays], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
    found = {name: weights[name] - w for name, w in taken.weight_arrays().items()}

    stream = np.concatenate([[EOS], texts]).astype(np.int64)
    ids, seen, labels = (np.full((ROWS, n), v, np.int64) for n, v in ((SOURCE, PAD), (SOURCE, 0), (CONTEXT, -100)))
    for row in range(ROWS):
        text = stream[row * form.size : (row + 1) * form.size]
        mask = mask_of(batch, row, text, extra)
        read, said = reference_spans.pair(text, mask, list(extra.values()), EOS)
        ids[row, : len(read)], seen[row, : len(read)], labels[row, : len(said)] = read, 1, said
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


def mask_of(batch: Any, row: int, text: np.ndarray, extra: dict[str, int]) -> np.ndarray:
    """Which tokens of a text are left out, by how long the spans of a row are: what their code draws by itself."""
    said = batch.targets[row, : batch.filled[row] - 1].tolist()
    starts = [i for i, token in enumerate(said) if token in extra.values()]
    gone = np.diff([*starts, len(said)]) - 1
    read = batch.encoder_tokens[row, : batch.encoder_filled[row] - 1].tolist()
    marks = [i for i, token in enumerate(read) if token in extra.values()]
    stay = np.diff([-1, *marks]) - 1
    mask = np.repeat([False, True] * len(gone), np.stack([stay, gone], 1).reshape(-1))
    assert len(mask) == len(text)
    return mask


shares = st.sampled_from([0.15, 0.3]), st.sampled_from([1.0, 3.0])


@seed(1)
@settings(max_examples=4, **QUIET)
@given(configs(), st.integers(0, 1 << 20), *shares)
def test_loss_and_gradients(config: Any, number: int, density: float, mean: float) -> None:
    compare(config, number, density, mean)


def off_by_one_sentinel(arrays: dict[str, np.ndarray]) -> None:
    """The sentinels of the targets are the next ones."""
    most = arrays["targets"].max()
    arrays["targets"] = np.where(arrays["targets"] > most - 3, arrays["targets"] - 1, arrays["targets"])


def another_end(arrays: dict[str, np.ndarray]) -> None:
    last = arrays["loss_weights"].sum(1).astype(int) - 1
    arrays["targets"] = arrays["targets"].copy()
    arrays["targets"][np.arange(ROWS), last] = PAD


def wrong_side(arrays: dict[str, np.ndarray]) -> None:
    """The text with gaps is predicted."""
    arrays["targets"] = np.ascontiguousarray(arrays["encoder_tokens"][:, :CONTEXT])


def padding_counts(arrays: dict[str, np.ndarray]) -> None:
    arrays["loss_weights"] = np.ones_like(arrays["loss_weights"])


def sentinels_count_twice(arrays: dict[str, np.ndarray]) -> None:
    many = arrays["targets"] > arrays["targets"].max() - 3
    arrays["loss_weights"] = arrays["loss_weights"] * (1 + many)


def sees_its_target(arrays: dict[str, np.ndarray]) -> None:
    arrays["tokens"] = arrays["targets"]


@pytest.mark.parametrize(
    "wrong", [off_by_one_sentinel, another_end, wrong_side, padding_counts, sentinels_count_twice, sees_its_target]
)
def test_what_is_wrong_is_seen(wrong: Changed) -> None:
    @seed(3)
    @settings(max_examples=1, **QUIET)
    @given(configs())
    def check(config: Any) -> None:
        compare(config, 11, 0.3, 1.5)
        with pytest.raises(AssertionError):
            compare(config, 11, 0.3, 1.5, wrong)

    check()
