"""Tags of words: which token of which sentence is asked, and that loss and gradients are those of the formulas."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import reference
import tokenizer_files
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import EPS, drawn_weights
from tokenizers import Tokenizer as Library

from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.draft import closed
from llmspec.compiler.plan import Plan
from llmspec.data.asking import asking_of
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch, blank
from llmspec.data.tags import TagAsking, TagColumn, TagLayout
from llmspec.data.tokens import TokenSet
from llmspec.data.whole import known, mistake
from llmspec.data.writing import MemoryRows, TokenWriter
from llmspec.parts.objectives.tagging import Tagging
from llmspec.parts.sources import Document
from llmspec.parts.sources.inline import Inline
from llmspec.parts.tokenizers import TABLE
from llmspec.parts.tokenizers.byte import Byte
from llmspec.spec.schema import Spec
from llmspec.training.tasks.tag import sentences_in
from llmspec.training.trainer import Trainer

quick = settings(deadline=None, max_examples=30)
NAMES = ("O", "B-X", "I-X", "B-Y")
FILES = ("wordpiece", "unigram", "sentencepiece", "byte_level")
SENTENCES = st.lists(
    st.lists(st.tuples(st.text("abß日The", min_size=1, max_size=6), st.sampled_from(NAMES)), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)


def codec_of(name: str) -> tuple[Any, Any]:
    """(a tokenizer, its codec): of bytes, or of a file of others."""
    if name == "byte":
        return Byte(), Byte().train(())
    part = TABLE["huggingface"](file=tokenizer_files.kept(name))
    part = closed(part, part.opened("."))
    return part, part.train(())


CODECS = {name: codec_of(name) for name in ("byte", *FILES)}


def tokens_of(sentences: list[list[tuple[str, str]]], name: str = "byte") -> TokenSet:
    """Sentences as a source's records become tokens."""
    part, codec = CODECS[name]
    source = Inline(documents=("x",), words="{w}", tags="{t}")
    rows = lambda field, kind, shape: MemoryRows(kind, shape)
    writer, column = TokenWriter(codec, rows, part.cutter(codec), None, tagged=True), TagColumn(source)
    for sentence in sentences:
        words, tags = ([pair[i] for pair in sentence] for i in (0, 1))
        found = column.add(Document("a", record={"w": words, "t": tags}))
        assert isinstance(found[1], list)
        writer.tagged(*found)
    writer.close()
    sets = tuple(tuple(labels) for labels, _ in column.close()["labels"])
    return TokenSet(**writer.arrays, label_sets=sets, vocab=codec.vocab)


@pytest.mark.parametrize("name", CODECS)
@given(SENTENCES)
@quick
def test_the_tag_of_a_word_stands_at_its_first_token(name: str, sentences: list[list[tuple[str, str]]]) -> None:
    data, (_, codec) = tokens_of(sentences, name), CODECS[name]
    assert data.tags is not None and len(data.tags) == len(data.tokens)
    theirs = Library.from_file(tokenizer_files.kept(name)) if name in ("wordpiece", "sentencepiece") else None
    for i, sentence in enumerate(sentences):
        ids, tags = (a[data.offsets[i] : data.offsets[i + 1]].tolist() for a in (data.tokens, data.tags))
        words = [word for word, _ in sentence]
        if codec.reversible:
            assert codec.decode(ids) == " ".join(words)
        places = [j for j, tag in enumerate(tags) if tag]
        assert [data.label_sets[tags[j] - 1][0] for j in places] == [tag for _, tag in sentence]
        if codec.reversible:  # the tokens of each word are its text, and the space before it
            ends = [*places[1:], len(ids)]
            texts = [codec.decode(ids[j:k]).strip() for j, k in zip(places, ends, strict=True)]
            assert texts == words
        if theirs is not None:  # as others encode a list of words
            whole = theirs.encode(words, is_pretokenized=True, add_special_tokens=False)
            numbers = whole.word_ids
            assert whole.ids == ids and places == [j for j, n in enumerate(numbers) if n not in numbers[:j]]
        assert data.characters[i, 0] == len(" ".join(words))


def asking(**more: Any) -> TagAsking:
    settled = {"around": ((1,), (2,)), "longest": 16, "truncation": False, "documents": 16, "labels": ("B-X", "O")}
    return TagAsking(**{**settled, "weights": np.array([3.0, 0.5], np.float32), **more})


def read(layout: TagLayout, blocks: np.ndarray) -> Batch:
    batch = blank(len(blocks), 16, 0)
    layout.gather(batch, np.arange(len(blocks)), blocks)
    return batch


@given(SENTENCES, st.booleans(), st.booleans())
@quick
def test_every_sentence_is_read_once_an_epoch_with_its_own_tags(
    sentences: list[list[tuple[str, str]]], truncation: bool, shuffled: bool
) -> None:
    data, how = tokens_of(sentences), asking(truncation=truncation)
    weights = np.arange(1, len(sentences) + 1, dtype=np.float32)
    layout = TagLayout(data._replace(weights=weights), how, 16, ("seed", 1) if shuffled else None)
    spelled = ["".join(f" {w}" for w, _ in s)[1:].encode() for s in sentences]
    listed = [all(tag in how.labels for _, tag in s) for s in sentences]
    kept = [i for i, text in enumerate(spelled) if listed[i] and (truncation or len(text) <= 14)]
    assert layout.kept.tolist() == kept and layout.cut == sum(len(spelled[i]) > 14 for i in kept)
    assert sum(layout.dropped.values()) == len(sentences) - len(kept)
    if not (blocks := int(layout.blocks_per_epoch)):
        assert not kept
        return
    batch, found, supervised = read(layout, np.arange(blocks, 2 * blocks)), [], 0
    assert batch.labels is None
    for one in sentences_in(batch):
        ids = batch.tokens[one.row, one.begin : one.end].tolist()
        assert ids[0] == 1 and ids[-1] == 2
        assert batch.positions[one.row, one.begin : one.end].tolist() == list(range(len(ids)))
        places, counts = (one.places - one.begin - 1).tolist(), batch.weights[one.row, one.places]
        supervised += len(places)
        tags = batch.targets[one.row, one.places].tolist()
        each = counts / how.weights[tags]
        assert np.allclose(each, each[0]), "all words of a sentence count as its record says"
        text = b"".join(CODECS["byte"][1].token_bytes(i) for i in ids[1:-1])
        found.append((text, places, [how.labels[tag] for tag in tags], each[0] if shuffled else 0.0))
    expected = []
    for i in kept:
        begins = [len(" ".join(w for w, _ in sentences[i][:j]).encode()) for j in range(len(sentences[i]))]
        inside = [b for b in begins if b < 14]
        of = [tag for _, tag in sentences[i]][: len(inside)]
        expected.append((spelled[i][:14], inside, of, float(weights[i]) if shuffled else 0.0))
    assert sorted(found) == sorted(expected)
    assert (batch.weights > 0).sum() == supervised == layout.counts(blocks).tokens_supervised


class Stream:
    """What the check asks of a stream."""

    context = 16

    def __init__(self, how: TagAsking) -> None:
        self.asking = how


def test_the_check_sees_each_mistake() -> None:
    how = asking()
    data = tokens_of([[("ab", "O"), ("a", "B-X")], [("b", "B-X")], [("abc", "O"), ("abcd", "O"), ("ba", "B-X")]])
    layout, stream = TagLayout(data, how, 16, None), Stream(how)
    seen = known(stream, data)  # type: ignore[arg-type]

    def said(change: Any = None) -> str:
        batch = read(layout, np.arange(int(layout.blocks_per_epoch)))
        if change is not None:
            change(batch)
        rows = range(len(batch.tokens))
        return next((w for row in rows if (w := mistake(stream, batch, row, seen)[1])), "")  # type: ignore[arg-type]

    def tag(batch: Any) -> None:
        place = tuple(np.argwhere(batch.weights > 0)[0])
        batch.targets[place] = 1 - batch.targets[place]

    def piece(batch: Any) -> None:  # the label on a word's second token
        row, place = np.argwhere(batch.weights > 0)[0]
        for array in (batch.targets, batch.weights):
            array[row, place : place + 2] = array[row, place : place + 2][::-1]

    def counted(batch: Any) -> None:  # a special token counts
        batch.weights[0, 0] = 1

    def padding(batch: Any) -> None:
        batch.weights[-1, -1] = 1

    assert said() == ""
    told = {f.__name__: said(f) for f in (tag, piece, counted, padding)}
    assert all("label of another" in told[name] for name in ("tag", "piece", "counted")), told
    assert "count" in told["padding"], told


# -- loss and gradient -----------------------------------------------------------------------------------------------
def plan_of(mask: str, **phase: Any) -> Plan:
    records = [{"w": ["x"], "t": ["O"]}]
    spec = {
        "name": "told",
        "device": "CPU",
        "model": {
            "context": 48,
            "d_model": 16,
            "layers": 1,
            "position": {"kind": "learned"},
            "attention": {"heads": 2},
            "mlp": {"kind": "gelu", "d_ff": 24},
            "mask": {"kind": mask},
        },
        "tokenizer": {"kind": "byte", "special_tokens": ["cls", "sep"]},
        "data": {"sources": {"a": {"kind": "inline", "records": records, "words": "{w}", "tags": "{t}"}}},
        "phases": {
            "p": {
                "kind": "tag",
                "mixture": {"a": "100%"},
                "budget": "4 steps",
                "labels": list(NAMES),
                "micro_batch_size": 2,
                "max_grad_norm": None,
                "optimizer": {"kind": "sgd", "lr": 1.0},
                **phase,
            }
        },
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


WEIGHTS = {"class_weights": {"B-X": 3.0, "O": 0.25}}
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("bidirectional", {}, True),
    ("bidirectional", WEIGHTS, False),
    ("causal", {**WEIGHTS, "objective": {"label_smoothing": 0.2}}, False),
]
"""(mask, settings of the phase, whether the graph is plain tinygrad)."""
DRAWN = [
    [("ab", "O"), ("ba", "B-X"), ("aaa", "I-X")],
    [("b", "B-Y")],
    [("abc", "O"), ("b", "O"), ("abcd", "B-X")],
    [("bb", "B-Y"), ("aa", "O"), ("b", "B-X"), ("ccccccc", "I-X"), ("a", "O")],
    [("aa", "I-X"), ("bcd", "O")],
]


def stepped(mask: str, plain: bool, **more: Any) -> tuple[Any, Any, Any, dict[str, np.ndarray], dict[str, Any]]:
    """(plan of the phase, its trainer before a step, a batch, weights, what the graph reads)."""
    plan = plan_of(mask, **more)
    planned, data = plan.phases[0], tokens_of(DRAWN)
    about = {"train": {"labels": [[[name], 2] for name in NAMES]}}
    how = asking_of(planned, [about], plan.tokenizer.meanings())
    assert isinstance(how, TagAsking)
    layout, made = TagLayout(data, how, 48, None), blank(2, 48, 0)
    layout.gather(made, np.arange(2), np.arange(2))
    read = BatchInputs(planned.model, planned.phase, plan.tokenizer.meanings(), (1,))(made, 0)
    weights = drawn_weights(planned.model, 2)
    return planned, Trainer(plan, planned, backend("CPU", plain), lambda t: weights[t.name]), made, weights, read


def exact(planned: Any, made: Batch, w: dict[str, np.ndarray], validated: bool = False) -> float:
    """The weighted mean of the losses of words: sentence by sentence, so that none sees another. What is validated is
    not smoothed."""
    smooth, total, whole = 0.0 if validated else planned.phase.objective.label_smoothing, 0.0, 0.0
    by_name = planned.phase.class_weights or {}
    for one in sentences_in(made):
        hidden = reference.row_hidden(planned.model, w, made.tokens[one.row, one.begin : one.end])
        text = CODECS["byte"][1].decode(made.tokens[one.row, one.begin + 1 : one.end - 1].tolist())
        true = next(s for s in DRAWN if " ".join(word for word, _ in s) == text)
        before = 0
        for word, tag in true:
            logits = reference.linear(w, "tokens_head", hidden[1 + max(0, before - 1)])
            logs = logits - np.log(np.exp(logits).sum())
            wanted = np.eye(len(NAMES))[NAMES.index(tag)] * (1 - smooth) + smooth / len(NAMES)
            total -= float((wanted * logs).sum()) * by_name.get(tag, 1.0)
            whole += by_name.get(tag, 1.0)
            before += len(word) + 1
    return total / whole


@pytest.mark.parametrize(("mask", "more", "plain"), CASES)
def test_loss_and_gradients_are_those_of_the_formulas(mask: str, more: dict[str, Any], plain: bool) -> None:
    planned, trainer, made, weights, read = stepped(mask, plain, **more)
    wide = reference.double(weights)
    loss = exact(planned, made, wide)
    found = trainer.evaluate(read)
    assert found["logits"].shape == (2 * 48, len(NAMES))
    assert found["loss"] / made.weights.sum() == pytest.approx(exact(planned, made, wide, True), rel=200 * EPS)
    taken = trainer.step([read], planned.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.sums == {"loss": pytest.approx(loss, rel=200 * EPS)}
    gradients = {n: wide[n] - w.astype(np.float64) for n, w in trainer.weight_arrays().items()}
    for number in range(3):
        way = {n: np.random.default_rng([number, i]).standard_normal(w.shape) for i, (n, w) in enumerate(wide.items())}
        ahead, back = (exact(planned, made, {n: w + s * 1e-5 * way[n] for n, w in wide.items()}) for s in (1, -1))
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=2e-4 * size)


class AllCount(Tagging):
    """The other tokens of a word count, too."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Any:
        made = super().arrays(batch, draw, specials)
        return {**made, "loss_weights": np.ones_like(made["loss_weights"])}


class NextPiece(Tagging):
    """The tag of a word stands at its second token."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Any:
        return {name: np.roll(array, 1, axis=1) for name, array in super().arrays(batch, draw, specials).items()}


class PerRow(Tagging):
    """The mean over rows rather than over words."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Any:
        made = super().arrays(batch, draw, specials)
        return {
            **made,
            "loss_weights": made["loss_weights"] / np.maximum(1, made["loss_weights"].sum(1, keepdims=True)),
        }


@pytest.fixture(scope="module")
def ready() -> tuple[Any, ...]:
    return stepped("bidirectional", False, **WEIGHTS)


@pytest.mark.parametrize("wrong", [Tagging, AllCount, NextPiece, PerRow])
def test_what_is_wrong_is_seen(wrong: type[Tagging], ready: tuple[Any, ...]) -> None:
    planned, trainer, made, weights, _ = ready
    phase = planned.phase.model_copy(update={"objective": wrong()})
    read = BatchInputs(planned.model, phase, Byte(special_tokens=("cls", "sep")).meanings(), (1,))(made, 0)
    loss = trainer.evaluate(read)["loss"] / read["loss_weights"].sum()
    assert (abs(loss - exact(planned, made, reference.double(weights))) > 1e-3) == (wrong is not Tagging)
