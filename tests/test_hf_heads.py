"""Heads of labels and of numbers in folders of transformers: read, written, read again, and refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import pytest
import reference
from test_exchange import TEMPLATE
from test_hf_folders import config, written

import llmspec
from llmspec.core.problems import RunError
from llmspec.exchange import ending
from llmspec.exchange.exporting import export_folder
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.exchange.importing import import_folder
from llmspec.formats.hf import exporting
from llmspec.formats.hf.family import families
from llmspec.formats.hf.importing import HFFolder
from llmspec.formats.hf.reading import Read, read_config
from llmspec.formats.hf.same_model import planned
from llmspec.formats.hf.weights import Files
from llmspec.formats.hf.writing import config_of
from llmspec.parts.heads.tokens import Tokens
from llmspec.parts.rewards.base import Answered
from llmspec.parts.rewards.reward_model import ByRewardModel
from llmspec.spec.schema import ModelSpec
from llmspec.training.judging import opener

LABELS = {"0": "wrong", "1": "right", "2": "neither"}
NAMED = {"id2label": LABELS, "label2id": {name: int(i) for i, name in LABELS.items()}}
SAYS: dict[str, list[tuple[dict[str, Any], str, dict[str, Any]]]] = {
    "text": [
        (NAMED, "classes", {"labels": tuple(LABELS.values()), "multi_label": False}),
        ({**NAMED, "problem_type": "multi_label_classification"}, "classes", {"multi_label": True, "classes": 3}),
        ({}, "classes", {"labels": ("LABEL_0", "LABEL_1")}),
        ({"num_labels": 4}, "classes", {"classes": 4}),
        ({"num_labels": 1}, "reward", {"std": None}),
        ({"id2label": {"0": "LABEL_0"}, "problem_type": "regression"}, "score", {"mean": 0.0, "std": 1.0}),
    ],
    "token": [
        (NAMED, "tokens", {"labels": tuple(LABELS.values())}),
        ({**NAMED, "problem_type": "single_label_classification"}, "tokens", {"classes": 3}),
    ],
}
"""What a head is of -> what config.json says, the name of the head, and some of its settings."""
CLASSES = [
    (name, architecture, of.labelled)
    for name, family in families().items()
    for architecture, of in family.architectures.items()
    if of.labelled is not None
]


def fields(name: str, architecture: str, **more: Any) -> dict[str, Any]:
    """The config.json of a small model of a family that ends so."""
    return {**config(families()[name]), "architectures": [architecture], **more}


def understood(found: Any) -> Read:
    assert isinstance(found, Read) and not found.problems, found
    return found


@pytest.mark.parametrize(("name", "architecture", "layer"), CLASSES)
def test_what_a_table_says_of_a_head_it_writes(name: str, architecture: str, layer: Any) -> None:
    """Each class of each family; the config that is written says the same network again, and nothing else does."""
    for said, head, wanted in SAYS[layer.each]:
        read = understood(read_config(fields(name, architecture, **said)))
        model = planned(ModelSpec.model_validate_json(json.dumps(read.model)))
        (found,) = model.heads
        part = model.heads[found]
        assert found == head and wanted.items() <= part.model_dump().items()
        assert (part.bias, getattr(part, "pooling", None)) == (layer.bias, layer.pooling)
        assert getattr(part, "pooler", False) == bool(layer.pooler)
        again = config_of(model, name)
        assert (again.family, again.architecture) == (families()[name], architecture)
        assert understood(read_config(again.fields)).model["heads"] == read.model["heads"]


def folder_of(place: Path, name: str, architecture: str, **more: Any) -> HFFolder:
    return written(place, fields(name, architecture, **more))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT with three labels, of which a text has one."""
    place = tmp_path_factory.mktemp("heads") / "bert"
    folder_of(place, "bert", "BertForSequenceClassification", **NAMED)
    return place


def test_tensors_lie_where_transformers_has_them(bert: Path, tmp_path: Path) -> None:
    stored = HFFolder(bert)
    names = {name for group in stored.groups(stored.plan().model, Files(bert)) for name, _ in group.theirs}
    own = {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert own <= names
    plan = stored.plan()
    _, weights, _ = stored.weights(plan)
    exporting.write(tmp_path / "b", config_of(plan.model, "bert"), plan, weights, stored.tokenizer(plan), "a card")
    other = HFFolder(tmp_path / "b")
    assert other.plan().model == plan.model
    _, back, _ = other.weights(other.plan())
    assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in weights.items()}


def test_texts_have_labels_by_their_names(bert: Path) -> None:
    """By the state of the first token through dense layer and tanh, in float64."""
    model = llmspec.open(bert)
    assert model.tells_labels and model.labels == tuple(LABELS.values()) and not model.plan.model.generates
    texts, w = ["a text, longer", "b"], reference.double(model.weights())
    for ids, one in zip(model.codec.encode(texts), model.classify_batch(texts), strict=True):
        first = reference.row_hidden(model.plan.model, w, np.array(ids))[0]
        pooled = np.tanh(reference.linear(w, "classes_head.pooler", first))
        exact = reference.softmax(reference.linear(w, "classes_head", pooled))
        assert {c.label: c.probability for c in one.labels} == pytest.approx(
            dict(zip(LABELS.values(), exact, strict=True)), rel=1e-5
        )


def test_a_table_of_another_task_is_no_classifier(tmp_path: Path) -> None:
    folder_of(tmp_path / "tags", "llama", "LlamaForTokenClassification", **NAMED)
    model = llmspec.open(tmp_path / "tags")
    assert model.tags_words and not model.tells_labels and not model.tells_numbers
    assert {c.label for c in model.tag("two words").words[1].labels} == set(LABELS.values())


def test_one_number_is_a_reward(tmp_path: Path) -> None:
    """A folder as it is, and what is imported of it, answer `reward: {kind: reward_model, model: …}`."""
    folder_of(tmp_path / "theirs", "llama", "LlamaForSequenceClassification", num_labels=1)
    hf_folders.write_tokenizer(tmp_path / "theirs", 264, TEMPLATE)
    import_folder(tmp_path / "theirs", tmp_path / "ours")
    asked = [Answered(prompt="why?", text="so."), Answered(prompt="why?", text="because of that.")]
    both = []
    for name in ("theirs", "ours"):
        model = llmspec.open(tmp_path / name)
        assert model.judges and model.tells_numbers and not model.tells_labels
        part = ByRewardModel(model=name)
        open_ = opener(base=str(tmp_path))
        assert not list(part.unfit(open_))
        both.append(part.scores(asked, open_))
        assert both[-1] == model.rewards(asked)
    assert both[0] == both[1] and both[0][0] != both[0][1]


def test_its_tokenizer_says_how_much_of_a_text_is_read(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "short")
    about = json.loads((tmp_path / "short" / "tokenizer_config.json").read_text("utf-8"))
    hf_folders.write(tmp_path / "short" / "tokenizer_config.json", {**about, "model_max_length": 7})
    model = llmspec.open(tmp_path / "short")
    one, other = model.classify_batch(["abcdefgh, and more", "abcdefg"])
    assert one.cut and not other.cut and one.labels == other.labels


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a gap": ({"id2label": {"0": "a", "2": "b"}}, "does not number 2 labels from 0 on"),
    "no map": ({"id2label": ["a", "b"]}, "no map of numbers to labels"),
    "no names": ({"id2label": {"0": "a", "1": None}}, "which is no text"),
    "another count": ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "`num_labels` is 3, and `id2label` has 2"),
    "twice": ({"id2label": {"0": "a", "1": "a"}}, "stands twice"),
    "no count": ({"num_labels": -1}, "no number of labels"),
    "an unknown type": ({"problem_type": "ranking"}, "known are: single_label_classification"),
    "several numbers": ({**NAMED, "problem_type": "regression"}, "3 numbers for a text"),
    "one of one": ({"num_labels": 1, "problem_type": "single_label_classification"}, "one label alone"),
    "a code": ({**NAMED, "auto_map": {"AutoModel": "x"}}, "names code of its own"),
    "a new field": ({**NAMED, "pooling_of_tomorrow": 1}, "`pooling_of_tomorrow` is not understood"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_head_is_named(case: str, bert: Path, tmp_path: Path) -> None:
    said, message = WRONG[case]
    shutil.copytree(bert, tmp_path / "wrong")
    hf_folders.write(tmp_path / "wrong" / "config.json", fields("bert", "BertForSequenceClassification", **said))
    with pytest.raises(RunError) as error:
        HFFolder(tmp_path / "wrong").plan()
    assert message in str(error.value)


# -- export ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "architecture", "said"),
    [
        ("bert", "BertForSequenceClassification", {**NAMED, "problem_type": "multi_label_classification"}),
        ("llama", "LlamaForTokenClassification", NAMED),
        ("qwen3", "Qwen3ForSequenceClassification", {"num_labels": 1}),
    ],
)
def test_what_is_exported_gives_the_same_outputs(
    name: str, architecture: str, said: dict[str, Any], tmp_path: Path
) -> None:
    """Of a model of others, also where it lies in a folder of ours with other settings of what is read."""
    theirs = folder_of(tmp_path / "theirs", name, architecture, **said).path
    hf_folders.write_tokenizer(theirs, 264, TEMPLATE)
    model = llmspec.open(theirs)
    found = export_folder(model, tmp_path / "out", origin=name)
    assert (found.architecture, found.left_out) == (architecture, ())
    assert found.compared[0].logits == 0 and found.compared[0].texts
    assert found.compared[0].chat == (True if said.get("num_labels") == 1 else None)
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert len(config["id2label"]) == said.get("num_labels", 3)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert ("neither" in card) == ("id2label" in said) and "classification" in card


def with_unit(folder: Path, **unit: float) -> Any:
    """A regressor whose numbers lie around a mean."""
    model = llmspec.open(folder)
    heads = {name: head.model_copy(update=unit) for name, head in model.plan.model.heads.items()}
    model.plan = model.plan.model_copy(update={"model": model.plan.model.model_copy(update={"heads": heads})})
    return model


@pytest.mark.parametrize("unit", [{"mean": 3.5, "std": 0.25}, {"mean": 0.5, "std": 1e5}, {"mean": 0.0, "std": 1e-4}])
def test_a_unit_of_numbers_is_in_the_weights(unit: dict[str, float], tmp_path: Path) -> None:
    """transformers has none: its outputs are in the unit of the labels, of which float32 holds large ones less exactly,
    and small ones have to be as right as others."""
    said = {"num_labels": 1, "problem_type": "regression"}
    folder_of(tmp_path / "bert", "bert", "BertForSequenceClassification", **said)
    model = with_unit(tmp_path / "bert", **unit)
    export_folder(model, tmp_path / "out")
    texts = ["a text", "another one"]
    plain, back = (llmspec.open(tmp_path / name).predict_batch(texts) for name in ("bert", "out"))
    assert [one.value for one in back] == pytest.approx(
        [unit["mean"] + unit["std"] * one.value for one in plain], rel=1e-5
    )


def test_a_mean_of_numbers_needs_a_bias(tmp_path: Path) -> None:
    said = {"num_labels": 1, "problem_type": "regression"}
    folder_of(tmp_path / "llama", "llama", "LlamaForSequenceClassification", **said)
    with pytest.raises(RunError, match="no bias that could hold this"):
        export_folder(with_unit(tmp_path / "llama", mean=3.5, std=0.25), tmp_path / "more")


def test_outputs_that_differ_are_not_done(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(end: Any, whole: dict[str, Any]) -> dict[str, Any]:
        return {n: a * np.float32(1.1 if n == "classes_head.weight" else 1) for n, a in whole.items()}

    monkeypatch.setattr(ending.Ending, "weights", scaled)
    with pytest.raises(RunError, match="logits are") as error:
        export_folder(llmspec.open(bert), tmp_path / "out")
    assert "the export is not the model" in str(error.value)


def test_small_numbers_that_differ_are_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is right of numbers around 0 and 1 would be far off of numbers of some millionths."""
    said = {"num_labels": 1, "problem_type": "regression"}
    folder_of(tmp_path / "bert", "bert", "BertForSequenceClassification", **said)
    model, whole = with_unit(tmp_path / "bert", std=1e-6), ending.Ending.weights

    def scaled(end: Any, weights: dict[str, Any]) -> dict[str, Any]:
        found = whole(end, weights)
        return {n: a * np.float32(1.1 if n == "score_head.weight" else 1) for n, a in found.items()}

    monkeypatch.setattr(ending.Ending, "weights", scaled)
    with pytest.raises(RunError, match="logits are"):
        export_folder(model, tmp_path / "out")


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a mean": ({"pooling": "mean"}, "has another head than this model", "pooling: cls, pooler: true, bias: true"),
    "no layer before": ({"pooler": False}, "heads.classes.pooler: False and True", "pooler: true"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_cannot_say_is_refused(case: str, bert: Path, tmp_path: Path) -> None:
    more, message, hint = REFUSED[case]
    spec = json.loads(json.dumps(HFFolder(bert).read.model))
    spec["heads"]["classes"] |= more
    with pytest.raises(RunError) as error:
        config_of(planned(ModelSpec.model_validate_json(json.dumps(spec))))
    (problem,) = error.value.problems
    assert message in problem.message and hint in (problem.hint or "")


def test_gguf_files_have_no_such_heads(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="GGUF files are written of models that draw text") as error:
        export_gguf(llmspec.open(bert), tmp_path / "out")
    assert "--to hf" in (error.value.problems[0].hint or "") and not (tmp_path / "out").exists()


def test_a_head_beside_is_left_out(tmp_path: Path) -> None:
    """A model that draws text and tells labels, too: what it was trained for last is written."""
    folder_of(tmp_path / "a", "llama", "LlamaForCausalLM", tie_word_embeddings=False)
    model = llmspec.open(tmp_path / "a")
    labels = Tokens.model_validate({"kind": "tokens", "labels": ["a", "b"]})
    network = model.plan.model.model_copy(update={"heads": {**model.plan.model.heads, "named": labels}})
    one = ending.with_head(network, "named", "tokens", labels)
    assert list(one.heads) == ["tokens"] and not any(t.name.startswith("lm_head") for t in one.tensors)
    model.plan = model.plan.model_copy(update={"model": network})
    found = ending.ending(model)
    assert (found.own, found.left_out) == ("lm", ("named",)) and not found.labelled
    assert set(found.weights({"lm_head.weight": 1, "named_head.bias": 2, "x": 3})) == {"lm_head.weight", "x"}
