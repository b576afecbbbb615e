"""Labels of texts: loss, logits and gradients of a step are those of transformers' classifiers, text by text.

Here several texts stand in a row, there each has a row of its own and padding behind it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from test_hf_encoders import bert  # noqa: E402

import llmspec  # noqa: E402
from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler.phase_model import phase_model  # noqa: E402
from llmspec.compiler.plan import PhasePlan  # noqa: E402
from llmspec.core.units import Budget, Share  # noqa: E402
from llmspec.data.documents import DocumentLayout  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.labels import LabelAsking, weights_by  # noqa: E402
from llmspec.data.layout import blank  # noqa: E402
from llmspec.data.tokens import TokenSet  # noqa: E402
from llmspec.parts.heads.classes import Classes  # noqa: E402
from llmspec.parts.objectives.classification import Classification  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.classify import Classify  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import SpecialTokens  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

PAD, ROWS = 2, 3
LABELS = ("a", "b", "c")
SETS = (("a",), ("b",), ("c",), ("a", "c"), ())
AROUND = ((3,), (1,))
"""None of which is padding to transformers, whose vector has no gradient there."""
LOSS, LOGITS = 1e-5, 2e-4


class Theirs(NamedTuple):
    """A classifier of transformers, and what of it lies in a folder that llmspec opens."""

    model: Any
    body: Any
    """Whose tensors are named as in the folder."""
    head: Mapping[str, Any]
    """Our name -> parameter of what stands on the body."""


def drawn(model: Any, number: int) -> None:
    """Weights large enough that everything counts."""
    torch.manual_seed(number)
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise * 0.15 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    model.eval()


def encoder_in(folder: Path, config: Any, number: int) -> Theirs:
    """BERT: the pooled first token, and a dense layer."""
    config.num_labels = len(LABELS)
    model = transformers.BertForSequenceClassification(config)
    drawn(model, number)
    model.bert.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    dense = model.bert.pooler.dense
    head = {"pooler.weight": dense.weight, "pooler.bias": dense.bias}
    return Theirs(model, model.bert, {**head, "weight": model.classifier.weight, "bias": model.classifier.bias})


def decoder_in(folder: Path, config: Any, number: int) -> Theirs:
    """Llama: a dense layer without bias on the last token."""
    config.num_labels, config.tie_word_embeddings, config.pad_token_id = len(LABELS), True, PAD
    model = transformers.LlamaForSequenceClassification(config)
    drawn(model, number)
    whole = transformers.LlamaForCausalLM(config)
    whole.model = model.model
    whole.tie_weights()
    whole.save_pretrained(folder)
    write_tokenizer(folder, config.vocab_size)
    return Theirs(model, whole, {"weight": model.score.weight})


KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "BertForSequenceClassification": (bert, encoder_in, {"pooling": "cls", "pooler": True}),
    "LlamaForSequenceClassification": (llama, decoder_in, {"pooling": "last", "bias": False}),
}
"""Name -> (configs, the model of one in a folder, the head that it has)."""


def texts_of(number: int, vocab: int, multi: bool) -> TokenSet:
    """Nine texts of words that are no special tokens."""
    rng = np.random.default_rng(number)
    lengths = rng.integers(1, 14, 9)
    sets = rng.integers(0, len(SETS) if multi else len(LABELS), 9)
    return TokenSet(
        rng.integers(4, vocab, lengths.sum()).astype(np.uint16),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        lengths.reshape(-1, 1),
        labels=sets.astype(np.int32),
        label_sets=SETS,
        vocab=vocab,
    )


def their_loss(logits: Any, targets: np.ndarray, phase: Classify) -> Any:
    """By torch's own losses."""
    if phase.multi_label:
        return torch.nn.BCEWithLogitsLoss()(logits, torch.from_numpy(targets))
    weights = phase.class_weights
    by_class = torch.tensor([weights.get(label, 1.0) for label in LABELS]) if isinstance(weights, dict) else None
    smoothing = phase.objective.label_smoothing
    return torch.nn.CrossEntropyLoss(by_class, label_smoothing=smoothing)(logits, torch.from_numpy(targets).long())


@contextmanager
def opened_in(kind: str, config: Any, number: int) -> Iterator[tuple[Theirs, Any, Path]]:
    """(their model, ours of the same weights, its folder)."""
    with tempfile.TemporaryDirectory() as name:
        theirs = KINDS[kind][1](Path(name), config, number)
        yield theirs, llmspec.open(Path(name)), Path(name)


def compare(kind: str, config: Any, number: int, **more: Any) -> None:
    """One step of both on the same texts."""
    with opened_in(kind, config, number) as (theirs, opened, folder):
        multi = more.pop("multi_label", False)
        head = Classes.model_validate({"kind": "classes", "labels": LABELS, "multi_label": multi, **KINDS[kind][2]})
        own = {"mixture": {"a": Share(100.0)}, "budget": Budget(1.0, "steps"), "optimizer": SGD(lr=1.0)}
        own |= {"micro_batch_size": ROWS, "max_grad_norm": None, "heads": {"classes": head}, "multi_label": multi}
        part = Classify(**own, **more)
        model, problems = phase_model(opened.plan.model.model_copy(update={"dropout": 0.0}), part)  # theirs: `eval`
        assert not problems
        phase = PhasePlan(
            name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=model, makes="", flops=None
        )
        data = texts_of(number, config.vocab_size, multi)
        how = LabelAsking(
            around=AROUND,
            longest=model.context,
            truncation=False,
            documents=part.objective.places(model.context),
            labels=LABELS,
            multi=multi,
            weights=weights_by(part, LABELS, {}),
        )
        layout = DocumentLayout(data, how, model.context, None)
        assert layout.blocks_per_epoch >= ROWS and len(layout.kept) == 9
        made = blank(ROWS, model.context, 0)._replace(labels=how.blank(ROWS))
        layout.gather(made, np.arange(ROWS), np.arange(ROWS))
        assert made.labels is not None
        read = BatchInputs(model, part, SpecialTokens(ids={}), (number,))(made, 0)
        weights = {n: np.array(w) for n, w in opened.weights().items()}
        weights |= {f"classes_head.{n}": p.detach().numpy().copy() for n, p in theirs.head.items()}
        taken = Trainer(opened.plan, phase, backend("CPU"), lambda t: weights[t.name])
        logits = taken.evaluate(read)["logits"].reshape(ROWS, -1, len(LABELS))
        loss = taken.step([read], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
        found = {n: weights[n] - w for n, w in taken.weight_arrays().items()}

        there = [(row, k) for row in range(ROWS) for k in range(int(made.documents[row, made.filled[row] - 1]) + 1)]
        rows = [made.tokens[r, : made.filled[r]][made.documents[r, : made.filled[r]] == k] for r, k in there]
        assert len(rows) > ROWS, "some row has several texts"
        tokens = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
        seen = np.zeros_like(tokens)
        for i, row in enumerate(rows):
            tokens[i, : len(row)], seen[i, : len(row)] = row, 1
        answer = theirs.model(torch.from_numpy(tokens), attention_mask=torch.from_numpy(seen)).logits
        targets = np.stack([made.labels.targets[r, k] for r, k in there])
        expected = their_loss(answer, targets, part)
        if not (more or multi):
            asked = {"attention_mask": torch.from_numpy(seen), "labels": torch.from_numpy(targets).long()}
            assert theirs.model(torch.from_numpy(tokens), **asked).loss.item() == pytest.approx(expected.item())
        expected.backward()
        np.testing.assert_allclose(
            np.stack([logits[r, k] for r, k in there]), answer.detach().numpy(), rtol=0, atol=LOGITS
        )
        assert loss == pytest.approx(expected.item(), rel=LOSS)
        wanted = named_gradients(opened, folder, theirs.body)
        wanted = {n: g for n, g in wanted.items() if not n.startswith("pooled_head.")}
        wanted |= {f"classes_head.{n}": p.grad.numpy() for n, p in theirs.head.items()}
        unread = {n: g for n, g in found.items() if n not in wanted}
        assert not any(g.any() for g in unread.values()), "what the head does not read keeps its numbers"
        apart({n: found[n] for n in wanted}, wanted)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"class_weights": {"a": 3.0, "c": 0.25}},
    "several labels": {"multi_label": True},
    "smoothed": {"objective": Classification(label_smoothing=0.2)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_logits_and_gradients(kind: str, case: str) -> None:
    @seed(4)
    @settings(max_examples=2, **QUIET)
    @given(KINDS[kind][0](), st.integers(0, 1 << 30))
    def check(config: Any, number: int) -> None:
        compare(kind, config, number, **CASES[case])

    check()


class WrongSign(Classification):
    """Less likely is better."""

    def build(self, dims: Any) -> Any:
        right = super().build(dims)
        return lambda *given: {"loss": -right(*given)["loss"]}


class Unweighted(Classification):
    """All texts count the same, whatever their labels weigh."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "loss_weights": (made["loss_weights"] > 0).astype(np.float32)}


class AllCount(Classification):
    """Room that no text fills counts, too."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "loss_weights": np.ones_like(made["loss_weights"])}


class Neighbours(Classification):
    """Each text has the label of the next."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "targets": np.roll(made["targets"], 1, axis=1)}


def one(kind: str, number: int, **more: Any) -> None:
    """One drawn model."""

    @seed(number)
    @settings(max_examples=1, **QUIET)
    @given(KINDS[kind][0]())
    def check(config: Any) -> None:
        compare(kind, config, number, **more)

    check()


WEIGHTED = {"class_weights": {"a": 3.0, "c": 0.25}}


@pytest.mark.parametrize(
    ("wrong", "number"), [(WrongSign, 5), (Unweighted, 7), (AllCount, 8), (Neighbours, 9)]
)  # a number each, since graphs of equal settings are made once
def test_what_is_wrong_is_seen(wrong: type[Classification], number: int) -> None:
    def several() -> None:
        for drawn in range(number, number + 300, 100):  # one alone may have rows of one text, or a graph that is known
            one("BertForSequenceClassification", drawn, **WEIGHTED, objective=wrong())

    with pytest.raises(AssertionError, match=r"Expected|Not equal|_head|layers"):
        several()


@pytest.mark.parametrize("kind", KINDS)
def test_another_place_for_a_text_is_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of a text's tokens is neither its first nor its last one."""
    wrong = {**KINDS[kind][2], "pooling": "mean"}
    monkeypatch.setitem(KINDS, kind, (*KINDS[kind][:2], wrong))
    with pytest.raises(AssertionError):
        one(kind, 6)
