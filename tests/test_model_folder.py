"""A model without a run: written from one, opened as one, and believed in nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

import llmspec
from llmspec.core.hashing import digest, file_digest
from llmspec.core.problems import LlmspecError, RunError
from llmspec.runs.model_folder import NOTES, WEIGHTS, ModelFolder, save_model
from llmspec.runs.run import RunFolder

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.trained(tmp_path_factory)


@pytest.fixture(scope="module")
def saved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llmspec.open(run).save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved model to do things to."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_it_is_the_same_model(run: Path, saved: Path) -> None:
    before, after = llmspec.open(run), llmspec.open(saved)
    tokens = np.arange(2 * 12).reshape(2, 12) % before.plan.model.vocab
    assert np.array_equal(before.logits(tokens), after.logits(tokens))
    assert before.generate("one", seed=5) == after.generate("one", seed=5)
    assert (after.chat, after.phase) == (True, "chat") and after.plan.decoding == before.plan.decoding
    assert after.attributions == before.attributions and after.notices == []
    assert after.codec.specials == before.codec.specials
    assert sorted(os.listdir(saved)) == ["model.json", "model.safetensors", "plan.json", "tokenizer.json"]
    from safetensors.numpy import load_file

    assert load_file(saved / WEIGHTS).keys() == {t.name for t in before.plan.model.tensors}


def test_it_says_nothing_of_where_it_was_made(run: Path, saved: Path) -> None:
    """No path, no text and no phase of the run leaves with the model, and the folder can be moved."""
    text = "".join(file.read_text() for file in saved.glob("*.json"))
    assert str(run) not in text and str(run.parent) not in text and "cuatro" not in text and "pretrain" not in text
    plan = ModelFolder(saved).plan()
    assert not plan.phases and not plan.sources and plan.model == RunFolder(run).plan().model


def test_the_weights_of_any_phase_can_be_saved_and_again(run: Path, tmp_path: Path) -> None:
    base = llmspec.open(llmspec.open(run, phase="pretrain").save(tmp_path / "base"))
    assert not base.chat and base.phase == "pretrain"
    again = llmspec.open(base.save(str(tmp_path / "again")))
    for name in ("plan.json", "tokenizer.json", WEIGHTS, NOTES):
        assert (tmp_path / "base" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert not again.chat
    with pytest.raises(RunError, match="no phase chat: it is a model without a run"):
        llmspec.open(tmp_path / "base", phase="chat")


def test_what_a_phase_froze_is_free_again(run: Path, tmp_path: Path) -> None:
    plan = RunFolder(run).plan()
    frozen = tuple(t.model_copy(update={"trainable": False}) for t in plan.model.tensors)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"tensors": frozen})})
    weights = {t.name: np.zeros(t.shape, np.float32) for t in frozen}
    made = save_model(tmp_path / "m", plan, (run / "tokenizer.json").read_text(), weights, phase="chat", chat=True)
    assert all(t.trainable for t in made.plan().model.tensors)


def test_nothing_is_written_over(run: Path, tmp_path: Path) -> None:
    opened = llmspec.open(run)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="is there already"):
        opened.save(mine)
    with pytest.raises(RunError, match="is there already"):
        opened.save(mine / "letter.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"] and [p.name for p in mine.iterdir()] == ["letter.txt"]
    with pytest.raises(TypeError, match="path of a new folder, not int"):
        opened.save(3)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    assert llmspec.open(opened.save(tmp_path / "empty")).phase == "chat"
    with pytest.raises(RunError, match="not a run directory: it holds a model without a run"):
        llmspec.run(small.plan(), tmp_path / "empty")
    assert RunFolder.latest(run.parent).path == run


def test_the_verbs_open_it(model: Path) -> None:
    status, said = small.call("sample", str(model), "--prompt", "one", "--json")
    assert status == 0 and json.loads(said)["phase"] == "chat" and json.loads(said)["chat"] is True
    for arguments, there in (
        (("explain", str(model)), "attention mask"),
        (("explain", str(model), "--part", "tokenizer"), "bpe"),
        (("explain", str(model), "--prompt", "one"), "how each token was chosen"),
        (("explain", str(model), str(model)), "what differs"),
    ):
        status, said = small.call(*arguments)
        assert status == 0 and there in said, said
    status, said = small.call("run", str(model))
    assert status == 2 and "is a saved model, but a spec is expected here" in said and "Traceback" not in said
    status, said = small.call("sample", str(model), "--phase", "pretrain", "--prompt", "one")
    assert status == 2 and "its weights are those of chat" in said and "Traceback" not in said


# -- believed in nothing -----------------------------------------------------------------------------------------------
def table(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def do(model: Path) -> None:
        found = json.loads((model / name).read_text())
        change(found)
        (model / name).write_text(json.dumps(found))

    return do


def arrays(change: Callable[[dict[str, Any]], object]) -> Change:
    """The arrays changed, and the hash made to fit."""

    def do(model: Path) -> None:
        from safetensors.numpy import load_file, save_file

        found = load_file(model / WEIGHTS)
        change(found)
        (model / WEIGHTS).unlink()
        save_file(found, model / WEIGHTS)
        table(NOTES, lambda notes: notes.update(weights=file_digest(model / WEIGHTS)))(model)

    return do


def embedding(make: Callable[[np.ndarray], np.ndarray]) -> Change:
    name = "embed_tokens.weight"
    return arrays(lambda found: found.update({name: np.ascontiguousarray(make(found[name]))}))


def another_tokenizer(model: Path) -> None:
    found = json.loads((model / "tokenizer.json").read_text())
    found["model"]["vocab"][max(found["model"]["vocab"], key=lambda t: found["model"]["vocab"][t])] = 10**6
    (model / "tokenizer.json").write_text(json.dumps(found))
    table(NOTES, lambda notes: notes.update(tokenizer=digest(json.dumps(found))))(model)


def linked(model: Path) -> None:
    (model / WEIGHTS).rename(model.parent / "elsewhere")
    (model / WEIGHTS).symlink_to(model.parent / "elsewhere")


FORGED: dict[str, tuple[Change, str]] = {
    "fewer rows": (embedding(lambda a: a[:10]), r"embed_tokens.weight is F32 \[10"),
    "turned": (embedding(lambda a: a.T), "embed_tokens.weight is F32"),
    "half floats": (embedding(lambda a: a.astype(np.float16)), "embed_tokens.weight is F16"),
    "another name": (arrays(lambda f: f.update(x=f.pop("embed_tokens.weight"))), "1 arrays of the plan are missing"),
    "one more": (arrays(lambda f: f.update(another=np.zeros(1, np.float32))), "1 arrays are not of the plan"),
    "other numbers": (
        lambda m: (m / WEIGHTS).write_bytes((m / WEIGHTS).read_bytes()[:-1] + b"\1"),
        "damaged, or of another model",
    ),
    "cut short": (lambda m: (m / WEIGHTS).write_bytes((m / WEIGHTS).read_bytes()[:-9]), "does not belong here"),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), "model.safetensors is missing"),
    "linked weights": (linked, "link|regular|plain"),
    "a swapped tokenizer": (
        lambda m: (m / "tokenizer.json").write_text((m / "tokenizer.json").read_text() + " "),
        "not the tokenizer that this model was trained with: model.json",
    ),
    "an id beyond the vocabulary": (another_tokenizer, "not written by a `bpe` tokenizer"),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no plan": (lambda m: (m / "plan.json").unlink(), "plan.json is missing"),
    "more vocabulary": (table("plan.json", lambda p: p["model"].update(vocab=10**6)), "table of tensors"),
    "less vocabulary": (table("plan.json", lambda p: p["model"].update(vocab=10)), "its tokenizer has"),
    "a thousand layers": (
        table("plan.json", lambda p: p["model"]["stacks"][0].update(order=[0] * 1000)),
        "table of tensors",
    ),
    "a longer context": (table("plan.json", lambda p: p["model"].update(context=10**12)), "model.context is wrong"),
    "a special token more": (
        table("plan.json", lambda p: p["tokenizer"].update(special_tokens=["mask"])),
        "not written by a `bpe` tokenizer",
    ),
    "an unknown template": (table("plan.json", lambda p: p["chat_template"].update(kind="x")), "chat_template"),
    "a run's plan": (
        table(
            "plan.json", lambda p: p.update(phases=json.loads(small.plan().model_dump_json(by_alias=True))["phases"])
        ),
        "the plan of a run",
    ),
    "notes of another format": (table(NOTES, lambda n: n.update(format=2)), "model.json cannot be read: format"),
    "notes of another type": (table(NOTES, lambda n: n.update(chat="yes")), "model.json cannot be read: chat"),
    "notes with code": (table(NOTES, lambda n: n.update(auto_map="x.py")), "model.json cannot be read: auto_map"),
    "no notes left": (lambda m: (m / NOTES).write_text(""), "model.json is damaged"),
    "notes that are a list": (lambda m: (m / NOTES).write_text("[]"), "model.json cannot be read"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_is_forged_is_refused_by_name(model: Path, forged: str) -> None:
    do, said = FORGED[forged]
    do(model)
    with pytest.raises(LlmspecError, match=said) as caught:
        llmspec.open(model)
    assert all(p.message for p in caught.value.problems)
    status, told = small.call("sample", str(model), "--prompt", "one")
    assert status in (1, 2) and "Traceback" not in told


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_rotten_bytes_are_refused_or_change_nothing(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Of any file: a byte changed, a piece lost."""
    model = Path(shutil.copytree(saved, tmp_path_factory.mktemp("rotten") / "model"))
    path = model / data.draw(st.sampled_from(["plan.json", NOTES, "tokenizer.json", WEIGHTS]))
    found = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(found) - 1))
    if data.draw(st.booleans()):
        found[at] ^= data.draw(st.integers(1, 255))
    else:
        del found[at : at + data.draw(st.integers(1, 400))]
    path.write_bytes(found)
    try:
        folder = ModelFolder(model)
        plan = folder.plan()
        folder.tokenizer(plan)
        name, arrays, _ = folder.weights(plan)
    except LlmspecError:
        return
    assert path.name in ("plan.json", NOTES), "files with a hash never change unseen"
    assert isinstance(name, str) and arrays.keys() == {t.name for t in plan.model.tensors}


def test_a_model_is_whole_or_absent(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = RunFolder(run).plan()
    weights = {t.name: np.zeros(t.shape, np.float32) for t in plan.model.tensors}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmspec.runs.model_folder.write_text", full)
    with pytest.raises(RunError, match=r"disk|space"):
        save_model(tmp_path / "m", plan, "{}", weights, phase="chat", chat=True)
    assert list(tmp_path.iterdir()) == []
