"""Masked tokens: which places are drawn, what stands there, and that loss and gradients are those of the formulas."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny
from hypothesis import given
from hypothesis import strategies as st
from networks import EPS, drawn_weights

from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.core.problems import SpecError
from llmspec.data.hidden import mistake
from llmspec.data.inputs import VALIDATION, BatchInputs
from llmspec.data.layout import Batch, blank, random_bits
from llmspec.parts.objectives.masked_lm import MaskedLM
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.parts.tokenizers.words import Vocabulary
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec
from llmspec.training.prompts import check_prompts
from llmspec.training.trainer import Trainer

SPECIALS = SpecialTokens(ids={"<|end|>": 0, "<|mask|>": 1, "<|unk|>": 2}, eos=0, mask=1, unk=2)
SPELLED = ["", "", "", " the", "re", " cat", "s", ".", " ", "é", " 中", "文", "_"]
VOCABULARY = Vocabulary(SPECIALS, len(SPELLED), lambda token: SPELLED[token].encode())


def batch_of(tokens: np.ndarray, filled: np.ndarray) -> Batch:
    """A batch of a layout: all that is no padding counts."""
    made = blank(*tokens.shape, 0)
    made.tokens[:], made.filled[:] = tokens, filled
    made.weights[:] = np.arange(tokens.shape[1]) < filled[:, None]
    return made


def drawing(seed: int) -> Any:
    return lambda n, *names: random_bits(n, seed, *names)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    ids = draw(st.lists(st.integers(0, len(SPELLED) - 1), min_size=rows * length, max_size=rows * length))
    filled = draw(st.lists(st.integers(0, length), min_size=rows, max_size=rows))
    return batch_of(np.array(ids, np.int32).reshape(rows, length), np.array(filled, np.int32))


PROBABILITIES = st.sampled_from([0.01, 0.15, 0.3, 0.5, 1.0])


def words_of(tokens: list[int]) -> list[list[int]]:
    """Places of each word, one character after another: letters and digits go on, all else stands alone."""
    words, last = list[list[int]](), ""
    for place, token in enumerate(tokens):
        text = SPELLED[token]
        joins = bool(last) and bool(text) and all(c.isalnum() and c not in "中文" for c in (last, text[0]))
        if joins:
            words[-1].append(place)
        else:
            words.append([place])
        last = text[-1:]
    return words


@given(batches(), st.integers(0, 99), PROBABILITIES, st.booleans())
def test_places_are_of_text_and_as_many_as_asked_for(plain: Batch, seed: int, share: float, whole: bool) -> None:
    part = MaskedLM(mlm_probability=share, whole_word_mask=whole)
    asked = part.asked(plain, drawing(seed), VOCABULARY)
    chosen = asked.weights > 0
    text = (np.arange(plain.tokens.shape[1]) < plain.filled[:, None]) & (plain.tokens > 2)
    assert not (chosen & ~text).any()
    assert (asked.targets == plain.tokens).all() and (asked.tokens == plain.tokens)[~chosen].all()
    assert not set(asked.tokens[chosen & (asked.tokens != 1)].tolist()) & {0, 2}, "a random token is never special"
    for row, (free, found) in enumerate(zip(text, chosen, strict=True)):
        most = max(1, round(share * int(free.sum()))) if free.any() else 0
        if not whole:
            assert found.sum() == most
            continue
        words = [[p for p in word if free[p]] for word in words_of(plain.tokens[row].tolist())]
        assert found.sum() <= most
        assert all(len({bool(found[p]) for p in word}) == 1 for word in words if word), "words are whole"
        left = [len(word) for word in words if word and not found[word[0]]]
        assert not left or most - found.sum() < max(left), "no more words fit"
    arrays = part.arrays(asked, drawing(seed), SPECIALS)
    places = part.places(plain.tokens.shape[1])
    assert {a.shape for a in arrays.values()} == {(len(chosen), places)}
    for row in range(len(chosen)):
        counted = arrays["loss_weights"][row] > 0
        assert arrays["places"][row][counted].tolist() == np.flatnonzero(chosen[row]).tolist()
        assert (arrays["targets"][row][counted] == plain.tokens[row][chosen[row]]).all()
    again, other = (part.asked(plain, drawing(s), VOCABULARY) for s in (seed, seed + 1000))
    assert (again.tokens == asked.tokens).all() and (again.weights == asked.weights).all()
    assert (mistake(plain, asked, SPECIALS) == "") == (chosen.any() or not text.any())
    if share == 0.15 and text.sum() > 60 and not whole:
        assert (other.weights != asked.weights).any()


@pytest.mark.parametrize(("mask", "other"), [(0.8, 0.1), (1.0, 0.0), (0.0, 0.0), (0.25, 0.5)])
def test_chosen_tokens_are_masked_replaced_and_kept_in_these_shares(mask: float, other: float) -> None:
    tokens = np.random.default_rng(0).integers(3, 100, (64, 128)).astype(np.int32)
    plain = batch_of(tokens, np.full(64, 128, np.int32))
    part = MaskedLM(mask_replace_prob=mask, random_replace_prob=other)
    asked = part.asked(plain, drawing(5), Vocabulary(SPECIALS, 100))
    chosen = asked.weights > 0
    masked, kept = (asked.tokens == 1)[chosen].mean(), (asked.tokens == tokens)[chosen].mean()
    room = 4 * np.sqrt(0.25 / chosen.sum())
    assert abs(masked - mask) <= room and (mask not in (0.0, 1.0) or masked == mask)
    assert abs(kept - (1 - mask - other) - other / 97) <= room
    replaced = asked.tokens[chosen & (asked.tokens != tokens) & (asked.tokens != 1)]
    assert (other > 0) == (len(set(replaced.tolist())) > 60) and (replaced > 2).all()
    # Every place of a row is as likely as any other.
    per_place = chosen.sum(axis=0)
    assert per_place.sum() == 64 * 19 and per_place.max() <= 9.5 + 5 * np.sqrt(9.5)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"weights": np.ones((1, 3), np.float32)}, "a special token or padding"),
        ({"tokens": np.array([[4, 3, 0]], np.int32)}, "a token is changed"),
        ({"targets": np.array([[3, 4, 0]], np.int32)}, "what is to be predicted is not"),
        (
            {"weights": np.zeros((1, 3), np.float32), "tokens": np.array([[3, 3, 0]], np.int32)},
            "no token of a whole batch",
        ),
    ],
)
def test_the_check_sees_each_mistake(change: dict[str, Any], wrong: str) -> None:
    plain = batch_of(np.array([[3, 3, 0]], np.int32), np.array([3], np.int32))
    asked = plain._replace(
        tokens=np.array([[3, 1, 0]], np.int32), targets=plain.tokens, weights=np.array([[0, 1, 0]], np.float32)
    )
    assert mistake(plain, asked, SPECIALS) == ""
    assert wrong in mistake(plain, asked._replace(**change), SPECIALS)


# -- loss, gradient, accuracy ------------------------------------------------------------------------------------------
HEADS: dict[str, dict[str, Any]] = {
    "plain": {"kind": "lm"},
    "bert": {"kind": "lm", "bias": True, "transform": {"norm": {"kind": "layernorm"}}},
    "capped": {"kind": "lm", "tied": False, "softcap": 2.0},
}


def plan_of(head: str, **phase: Any) -> Plan:
    spec = {
        "name": "masked",
        "device": "CPU",
        "model": {
            "context": 12,
            "d_model": 16,
            "layers": 2,
            "attention": {"heads": 2},
            "mlp": {"kind": "gelu", "d_ff": 24},
            "mask": {"kind": "bidirectional"},
            "heads": {"lm": HEADS[head]},
        },
        "tokenizer": {"kind": "char", "vocab": 24, "special_tokens": ["mask"]},
        "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
        "phases": {"p": {"kind": "masked_lm", "mixture": {"a": "100%"}, "budget": "4 steps", **phase}},
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def test_what_is_hidden_of_a_validation_text_follows_no_seed() -> None:
    """So that what differs between runs are the models; in training it follows seed, phase and place."""
    plan = plan_of("plain", micro_batch_size=3)
    phase, specials = plan.phases[0], plan.tokenizer.meanings()
    made = batch_of(np.random.default_rng(4).integers(7, 24, (3, 12)).astype(np.int32), np.full(3, 12, np.int32))
    inputs = [BatchInputs(plan.model, phase.phase, specials, seed) for seed in ((1, "a"), (2, "b"))]
    found = {at: [one.asked(made, *at).tokens for one in inputs] for at in ((VALIDATION, "s", 0), ("step", 0))}
    assert (found[VALIDATION, "s", 0][0] == found[VALIDATION, "s", 0][1]).all()
    assert (found["step", 0][0] != found["step", 0][1]).any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("plain", [False, True])
def test_loss_accuracy_and_gradients_are_those_of_the_formulas(head: str, plain: bool) -> None:
    plan = plan_of(
        head,
        micro_batch_size=3,
        max_grad_norm=None,
        optimizer={"kind": "sgd", "lr": 1.0},
        objective={"mlm_probability": 0.3},
    )
    phase, specials = plan.phases[0], plan.tokenizer.meanings()
    tokens = np.random.default_rng(4).integers(7, 24, (3, 12)).astype(np.int32)
    made = batch_of(tokens, np.array([12, 12, 5], np.int32))
    inputs = BatchInputs(plan.model, phase.phase, specials, (1,))
    asked, read = inputs.asked(made, 0), inputs(made, 0)
    weights = drawn_weights(plan.model, 2)
    trainer = Trainer(plan, phase, backend("CPU", plain), lambda t: weights[t.name])
    shares = asked.weights.astype(np.float64)

    def exact(w: dict[str, np.ndarray]) -> float:
        """The mean loss: row by row, so that no row sees another's padding."""
        total = 0.0
        for row, count in enumerate(made.filled):
            logits = reference.row_logits(plan.model, w, asked.tokens[row, :count])
            losses = reference.cross_entropy(logits, tokens[row, :count], 0.0)
            total += float((losses * shares[row, :count]).sum())
            right[row] = (logits.argmax(1) == tokens[row, :count]) * shares[row, :count]
        return total / shares.sum()

    right: dict[int, np.ndarray] = {}
    wide = reference.double(weights)
    loss = exact(wide)
    found = trainer.evaluate(read)
    assert found["loss"] / shares.sum() == pytest.approx(loss, rel=100 * EPS)
    assert found["accuracy"] == sum(r.sum() for r in right.values())
    taken = trainer.step([read], phase.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.sums == {"loss": pytest.approx(loss, rel=100 * EPS)} and taken.targets == np.count_nonzero(shares)
    gradients = {n: wide[n] - w.astype(np.float64) for n, w in trainer.weight_arrays().items()}
    for seed in range(4):
        way = {n: np.random.default_rng([seed, i]).standard_normal(w.shape) for i, (n, w) in enumerate(wide.items())}
        ahead, back = (exact({n: w + s * 1e-5 * way[n] for n, w in wide.items()}) for s in (1, -1))
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=2e-4 * size)


# -- what is refused before step 0 -------------------------------------------------------------------------------------
SPEC = """\
name: masked
device: CPU
model:
  context: 32
  d_model: 16
  layers: 1
  attention: {heads: 2}
  mlp: {kind: gelu, d_ff: 32}
  mask: {kind: bidirectional}
tokenizer: {kind: byte, special_tokens: [mask]}
data: {sources: {docs: {kind: python_docs, validation: tail 1%}}}
phases:
  pretrain:
    kind: masked_lm
    mixture: {docs: 100%}
    budget: 12 steps
    micro_batch_size: 4
    document_mask: true
    optimizer: {kind: adamw, lr: 1e-2}
    checkpoint_every: 3 steps
    evaluate_every: 6 steps
    sample_every: 6 steps
    prompts: ["the [MASK][MASK]e statement"]
"""


@pytest.mark.parametrize(
    ("change", "path", "said", "hint"),
    [
        ("model.mask={kind: causal}", ("phases", "pretrain", "objective"), "hides what follows", "bidirectional"),
        ("model.mask={kind: prefix}", ("phases", "pretrain", "objective"), "hides what follows", "bidirectional"),
        ("tokenizer.special_tokens=[]", ("phases", "pretrain", "objective"), "special token for `mask`", "special_tok"),
        ("phases.pretrain={kind: pretrain, mixture: {docs: 100%}, budget: 4 steps}",
         ("phases", "pretrain", "objective"), "see its own next", "kind: masked_lm"),
        ("phases.pretrain.objective={kind: cross_entropy}", ("phases", "pretrain", "objective"), "next token", "pre"),
        ("phases.pretrain.objective={mask_replace_prob: 0.95}",
         ("phases", "pretrain", "objective", "mask_replace_prob"), "at most 1", ""),
        ("phases.pretrain.objective={mlm_prob: 0.5}", ("phases", "pretrain", "objective", "mlm_prob"), "", "mlm_proba"),
        ("phases.pretrain.prompts=[no mask]", ("phases", "pretrain", "prompts", 0), "no [MASK]", "write [MASK]"),
        ("phases.pretrain.prompts=['[MASK] 0123456789012345678901234567890123456789']",
         ("phases", "pretrain", "prompts", 0), "context is 32", "shorten it"),
        ("model.heads={score: {kind: scalar}}", ("phases", "pretrain", "objective"), "no head `lm`", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(
    change: str, path: tuple[Any, ...], said: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        check_prompts(compile_spec(load_spec(tiny.write(tmp_path, SPEC), [change]).spec))
    problem = next(p for p in refused.value.problems if p.path == path)
    assert said in problem.message and hint in problem.hint, problem


def test_a_tokenizer_tells_its_words() -> None:
    codec = Byte(special_tokens=("mask",)).train(())
    (ids,) = codec.encode(["ab é, 1中_x"])
    begins, ends = Vocabulary.of(codec).edges
    joined = [False, *(bool(begins[b] and ends[a]) for a, b in pairwise(ids))]
    words = re.split(
        b"\0", b"".join((b"" if j else b"\0") + codec.token_bytes(i) for i, j in zip(ids, joined, strict=True))
    )
    assert words[1:5] == [b"ab", b" ", "é".encode(), b","] and words[-1] == b"x"
