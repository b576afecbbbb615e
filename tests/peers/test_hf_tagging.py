"""Tags of words: loss, logits and gradients of a step are those of transformers' token classifiers, by sentence.

Here several sentences stand in a row, there each has a row of its own and padding behind it; there the tokens that no
word begins at have the label -100.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_cases import llama  # noqa: E402
from hf_folders import write_tokenizer  # noqa: E402
from hypothesis import given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_hf import QUIET, apart, named_gradients  # noqa: E402
from test_hf_classification import AROUND, LOGITS, LOSS, PAD, Theirs, drawn  # noqa: E402
from test_hf_encoders import bert  # noqa: E402

import llmspec  # noqa: E402
from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler.phase_model import phase_model  # noqa: E402
from llmspec.compiler.plan import PhasePlan  # noqa: E402
from llmspec.core.units import Budget, Share  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.labels import weights_by  # noqa: E402
from llmspec.data.layout import blank  # noqa: E402
from llmspec.data.tags import TagAsking, TagLayout  # noqa: E402
from llmspec.data.tokens import TokenSet  # noqa: E402
from llmspec.parts.heads.tokens import Tokens  # noqa: E402
from llmspec.parts.objectives.tagging import Tagging  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.tag import Tag  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import SpecialTokens  # noqa: E402
from llmspec.training.tasks.tag import sentences_in  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

ROWS, SENTENCES, IGNORED = 3, 24, -100
LABELS = ("O", "B-X", "I-X")


def encoder_in(folder: Path, config: Any, number: int) -> Theirs:
    """BERT; llmspec opens bodies with a pooler, which nothing reads here."""
    config.num_labels, config.classifier_dropout = len(LABELS), 0.0
    model = transformers.BertForTokenClassification(config)
    model.bert = transformers.BertModel(config)
    drawn(model, number)
    model.bert.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    return Theirs(model, model.bert, {"weight": model.classifier.weight, "bias": model.classifier.bias})


def decoder_in(folder: Path, config: Any, number: int) -> Theirs:
    """Llama."""
    config.num_labels, config.tie_word_embeddings, config.pad_token_id = len(LABELS), True, PAD
    model = transformers.LlamaForTokenClassification(config)
    drawn(model, number)
    whole = transformers.LlamaForCausalLM(config)
    whole.model = model.model
    whole.tie_weights()
    whole.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    return Theirs(model, whole, {"weight": model.score.weight, "bias": model.score.bias})


KINDS: dict[str, tuple[Any, Any]] = {
    "BertForTokenClassification": (bert, encoder_in),
    "LlamaForTokenClassification": (llama, decoder_in),
}


def sentences_of(number: int, vocab: int) -> TokenSet:
    """Sentences of words of one to three tokens that are no special ones."""
    rng = np.random.default_rng(number)
    tags, lengths = list[int](), list[int]()
    for _ in range(SENTENCES):
        of_words = rng.integers(1, 4, rng.integers(1, 5))
        for size in of_words.tolist():
            tags += [int(rng.integers(1, len(LABELS) + 1)), *[0] * (size - 1)]
        lengths.append(int(of_words.sum()))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(4, vocab, sum(lengths)).astype(np.uint16)
    ids[offsets[:-1]] = 4 + np.arange(SENTENCES)  # no two are alike
    return TokenSet(
        ids,
        offsets,
        np.array(lengths).reshape(-1, 1),
        tags=np.array(tags, np.uint16),
        label_sets=tuple((label,) for label in LABELS),
        vocab=vocab,
    )


def padded(each: list[np.ndarray], data: TokenSet) -> tuple[dict[str, Any], Any]:
    """(what transformers reads of sentences, the labels of their tokens), made of tokens and tags themselves, not of
    what our layout says."""
    tokens = np.full((len(each), max(map(len, each))), PAD, np.int64)
    seen, labels = np.zeros_like(tokens), np.full_like(tokens, IGNORED)
    assert data.tags is not None
    known = {
        data.tokens[b:e].tobytes(): data.tags[b:e].astype(np.int64)
        for b, e in zip(data.offsets[:-1].tolist(), data.offsets[1:].tolist(), strict=True)
    }
    for i, row in enumerate(each):
        tokens[i, : len(row)], seen[i, : len(row)] = row, 1
        tags = known[row[1:-1].astype(np.uint16).tobytes()]
        labels[i, 1 : len(row) - 1] = np.where(tags > 0, tags - 1, IGNORED)
    return {"input_ids": torch.from_numpy(tokens), "attention_mask": torch.from_numpy(seen)}, torch.from_numpy(labels)


def compare(kind: str, config: Any, number: int, **more: Any) -> None:
    """One step of both on the same sentences."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = KINDS[kind][1](folder, config, number)
        opened: Any = llmspec.open(folder)
        head = Tokens.model_validate({"kind": "tokens", "labels": LABELS})
        own = {"mixture": {"a": Share(100.0)}, "budget": Budget(1.0, "steps"), "optimizer": SGD(lr=1.0)}
        part = Tag(**own, micro_batch_size=ROWS, max_grad_norm=None, heads={"tokens": head}, **more)
        model, problems = phase_model(opened.plan.model.model_copy(update={"dropout": 0.0}), part)  # theirs: `eval`
        assert not problems
        phase = PhasePlan(
            name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=model, makes="", flops=None
        )
        how = TagAsking(AROUND, model.context, False, model.context, LABELS, weights_by(part, LABELS, {}))
        data = sentences_of(number, config.vocab_size)
        layout, made = TagLayout(data, how, model.context, None), blank(ROWS, model.context, 0)
        assert layout.blocks_per_epoch >= ROWS
        layout.gather(made, np.arange(ROWS), np.arange(ROWS))
        read = BatchInputs(model, part, SpecialTokens(ids={}), (number,))(made, 0)
        weights = {n: np.array(w) for n, w in opened.weights().items()}
        weights |= {f"tokens_head.{n}": p.detach().numpy().copy() for n, p in theirs.head.items()}
        taken = Trainer(opened.plan, phase, backend("CPU"), lambda t: weights[t.name])
        logits = taken.evaluate(read)["logits"].reshape(ROWS, -1, len(LABELS))
        loss = taken.step([read], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
        found = {n: weights[n] - w for n, w in taken.weight_arrays().items()}

        there = list(sentences_in(made))
        assert len(there) > ROWS, "some row has several sentences"
        asked, labels = padded([made.tokens[one.row, one.begin : one.end] for one in there], data)
        answer = theirs.model(**asked)
        weighed = part.class_weights
        by_class = torch.tensor([weighed.get(label, 1.0) for label in LABELS]) if isinstance(weighed, dict) else None
        loss_of = torch.nn.CrossEntropyLoss(by_class, label_smoothing=part.objective.label_smoothing)
        expected = loss_of(answer.logits.view(-1, len(LABELS)), labels.view(-1))
        if not more:  # their own loss is that one
            own_loss = theirs.model(**asked, labels=labels).loss
            assert own_loss.item() == pytest.approx(expected.item())
        expected.backward()
        for parameter in theirs.body.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for i, one in enumerate(there):
            theirs_here = answer.logits[i, : one.end - one.begin].detach().numpy()
            np.testing.assert_allclose(logits[one.row, one.begin : one.end], theirs_here, rtol=0, atol=LOGITS)
        assert loss == pytest.approx(expected.item(), rel=LOSS)
        wanted = named_gradients(opened, folder, theirs.body)
        wanted |= {f"tokens_head.{n}": p.grad.numpy() for n, p in theirs.head.items()}
        apart({n: found[n] for n in wanted}, wanted)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"class_weights": {"B-X": 3.0, "O": 0.25}},
    "smoothed": {"objective": Tagging(label_smoothing=0.2)},
}


def one(kind: str, number: int, **more: Any) -> None:
    """One drawn model."""

    @seed(number)
    @settings(max_examples=1, **QUIET)
    @given(KINDS[kind][0](), st.integers(0, 1 << 30))
    def check(config: Any, number: int) -> None:
        compare(kind, config, number, **more)

    check()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_logits_and_gradients(kind: str, case: str) -> None:
    one(kind, 4, **CASES[case])


class WrongSign(Tagging):
    """Less likely is better."""

    def build(self, dims: Any) -> Any:
        right = super().build(dims)
        return lambda *given: {"loss": -right(*given)["loss"]}


class AllCount(Tagging):
    """Tokens that no word begins at count, too."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "loss_weights": np.ones_like(made["loss_weights"])}


class NextPiece(Tagging):
    """The label stands at the token behind a word's first."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        return {name: np.roll(array, 1, axis=1) for name, array in super().arrays(batch, draw, specials).items()}


class Unweighted(Tagging):
    """All words count the same, whatever their tags weigh."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "loss_weights": (made["loss_weights"] > 0).astype(np.float32)}


@pytest.mark.parametrize(("wrong", "number"), [(WrongSign, 5), (AllCount, 6), (NextPiece, 7), (Unweighted, 8)])
def test_what_is_wrong_is_seen(wrong: type[Tagging], number: int) -> None:
    # Settings of its own, since graphs of equal ones are made once.
    objective = wrong(label_smoothing=number / 100)
    with pytest.raises(AssertionError, match=r"Expected|Not equal|_head|layers"):
        one("BertForTokenClassification", number, **CASES["weighted"], objective=objective)
