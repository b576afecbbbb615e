"""A run directory is believed in nothing: forged, swapped and renamed files are refused by name, before any use."""

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

import llmspec
from llmspec.compiler.sound import too_large
from llmspec.core.hashing import digest, file_digest
from llmspec.core.problems import LlmspecError, RunError
from llmspec.runs import checkpoint
from llmspec.runs.checkpoint import CURSOR, MANIFEST, STATE, WEIGHTS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.trained(tmp_path_factory)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run to do things to."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def sealed(step: Path) -> None:
    """The manifest made to fit what lies there."""
    (step / MANIFEST).write_text(json.dumps({n: file_digest(step / n) for n in (WEIGHTS, STATE, CURSOR)}))


def arrays(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The arrays of a file changed, its manifest made to fit."""
    from safetensors.numpy import load_file, save_file

    found = load_file(path)
    change(found)
    path.unlink()
    save_file(found, path)
    sealed(path.parent)


def reshaped(found: dict[str, Any]) -> None:
    found["embed_tokens.weight"] = found["embed_tokens.weight"][:10].copy()


def turned(found: dict[str, Any]) -> None:
    found["embed_tokens.weight"] = np.ascontiguousarray(found["embed_tokens.weight"].T)


def retyped(found: dict[str, Any]) -> None:
    found["embed_tokens.weight"] = found["embed_tokens.weight"].astype(np.float16)


def renamed(found: dict[str, Any]) -> None:
    found["embed_tokens.weights"] = found.pop("embed_tokens.weight")


def added(found: dict[str, Any]) -> None:
    found["another"] = np.zeros(1, np.float32)


def cursor(step: Path, **values: Any) -> None:
    found = json.loads((step / CURSOR).read_text())
    (step / CURSOR).write_text(json.dumps({**found, **values}))
    sealed(step)


def tokenizer(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """tokenizer.json changed, the lock made to fit."""
    found = json.loads((run / "tokenizer.json").read_text())
    change(found)
    text = json.dumps(found)
    (run / "tokenizer.json").write_text(text)
    lock = json.loads((run / "lock.json").read_text())
    (run / "lock.json").write_text(json.dumps({**lock, "tokenizer": digest(text)}))


def far_id(found: dict[str, Any]) -> None:
    vocab = found["model"]["vocab"]
    last = max(vocab, key=lambda token: vocab[token])
    vocab[last] = 10**6


def plan(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    found = json.loads((run / "plan.json").read_text())
    change(found)
    (run / "plan.json").write_text(json.dumps(found))


def models(found: dict[str, Any], **values: Any) -> None:
    """The same in the model of the plan and of every phase."""
    for model in (found["model"], *(phase["model"] for phase in found["phases"])):
        model.update(values)


def stack(found: dict[str, Any]) -> dict[str, Any]:
    """The blocks of the plan's model."""
    (only,) = found["model"]["stacks"]
    return only


def attention(found: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = stack(found)["blocks"][0]["attention"]
    return part


FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "fewer rows": (lambda r: arrays(r / "chat/step_4" / WEIGHTS, reshaped), r"embed_tokens.weight is F32 \[10"),
    "turned": (lambda r: arrays(r / "chat/step_4" / WEIGHTS, turned), "embed_tokens.weight is F32"),
    "half floats": (lambda r: arrays(r / "chat/step_4" / WEIGHTS, retyped), "embed_tokens.weight is F16"),
    "another name": (lambda r: arrays(r / "chat/step_4" / WEIGHTS, renamed), "1 arrays of the plan are missing"),
    "one more": (lambda r: arrays(r / "chat/step_4" / WEIGHTS, added), "1 arrays are not of the plan"),
    "renamed step": (lambda r: (r / "chat/step_4").rename(r / "chat/step_9"), "saved after step 4, and its folder"),
    "of another phase": (
        lambda r: [shutil.rmtree(r / "chat/step_4"), (r / "pretrain/step_4").rename(r / "chat/step_4")],
        "of another run, or of another phase",
    ),
    "another key": (lambda r: cursor(r / "chat/step_4", key="0" * 64), "of another run, or of another phase"),
    "a linked step": (
        lambda r: ((r / "chat/step_4").rename(r / "away"), (r / "chat/step_4").symlink_to(r / "away")),
        "not a folder that a run has written",
    ),
    "a linked phase": (
        lambda r: ((r / "chat").rename(r / "away"), (r / "chat").symlink_to(r / "away")),
        "not a folder that a run has written",
    ),
    "a swapped tokenizer": (
        lambda r: (r / "tokenizer.json").write_text((r / "tokenizer.json").read_text() + " "),
        "not the tokenizer that this model was trained with",
    ),
    "an id beyond the vocabulary": (lambda r: tokenizer(r, far_id), "not written by a `bpe` tokenizer"),
    "texts cut short": (
        lambda r: tokenizer(
            r,
            lambda t: t.update(
                truncation={"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
            ),
        ),
        "not written by a `bpe`",
    ),
    "a phase outside": (lambda r: plan(r, lambda p: p["phases"][1].update(name="../chat")), "cannot name a folder"),
    "an absolute phase": (lambda r: plan(r, lambda p: p["phases"][1].update(name="/etc")), "cannot name a folder"),
    "thousands of layers": (lambda r: plan(r, lambda p: stack(p).update(order=[0] * 10**4)), "table of tensors"),
    "a layer of no block": (lambda r: plan(r, lambda p: stack(p).update(order=[7])), "of block 7, of 1"),
    "tables of another position": (
        lambda r: plan(r, lambda p: stack(p)["blocks"][0].update(position_name="positions.other")),
        "not those that its settings make",
    ),
    "more vocabulary": (lambda r: plan(r, lambda p: p["model"].update(vocab=10**6)), "table of tensors"),
    "less vocabulary": (lambda r: plan(r, lambda p: p["model"].update(vocab=10)), "its tokenizer has"),
    "more heads": (
        lambda r: plan(r, lambda p: stack(p)["blocks"][0]["attention"].update(heads=64)),
        "table of tensors",
    ),
    "a longer context": (lambda r: plan(r, lambda p: models(p, context=1 << 24)), "this machine has|is not the plan's"),
    "another context in a phase": (
        lambda r: plan(r, lambda p: p["phases"][1]["model"].update(context=8)),
        "the model of chat is not the plan's",
    ),
    "no layers": (lambda r: plan(r, lambda p: stack(p).update(order=[])), "layers is 0"),
    "itself as parent": (lambda r: plan(r, lambda p: p["phases"][1]["phase"].update({"from": "chat"})), "before it"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_is_forged_is_refused_by_name(run: Path, forged: str) -> None:
    do, said = FORGED[forged]
    do(run)
    with pytest.raises(LlmspecError, match=said):
        llmspec.open(run)


@pytest.mark.parametrize("forged", ["fewer rows", "half floats", "renamed step", "another key", "a linked step"])
def test_nor_does_training_go_on_from_it(run: Path, forged: str) -> None:
    do, said = FORGED[forged]
    do(run)
    plan_of = small.plan("phases.chat.budget=4 steps")
    about = json.loads((run / "chat/phase.json").read_text())
    (run / "chat/phase.json").write_text(json.dumps({**about, "done": False}))
    with pytest.raises(LlmspecError, match=said):
        llmspec.run(plan_of, run)


@pytest.mark.parametrize("change", [reshaped, retyped, renamed, added])
def test_optimizer_state_is_compared_as_well(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.numpy import load_file, save_file

    path = run / "chat/step_2" / STATE
    found = load_file(path)
    name = next(n for n in found if n.startswith("embed_tokens"))
    renamed_ = {("embed_tokens.weight" if n == name else n): a for n, a in found.items()}
    change(renamed_)
    path.unlink()
    save_file({(name if n == "embed_tokens.weight" else n): a for n, a in renamed_.items()}, path)
    sealed(path.parent)
    shutil.rmtree(run / "chat/step_4")
    with pytest.raises(RunError, match="does not belong here"):
        llmspec.run(small.plan(), run)


def test_a_damaged_last_phase_does_not_give_way_silently(run: Path) -> None:
    for step in ("step_2", "step_4"):
        (run / "chat" / step / WEIGHTS).write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint of chat is left") as caught:
        llmspec.open(run)
    assert "--phase pretrain" in caught.value.problems[0].hint
    assert llmspec.open(run, phase="pretrain").phase == "pretrain"
    with pytest.raises(RunError, match="no phase pretain"):
        llmspec.open(run, phase="pretain")
    heard = small.Heard()
    llmspec.run(small.plan(), run, watcher=heard)
    assert any("starts over" in said for said in heard.notices) and llmspec.open(run).notices == []


def test_a_damaged_note_says_how_to_go_on(run: Path) -> None:
    (run / "chat/phase.json").write_text('{"key": 3}')
    for use in (llmspec.open, lambda place: llmspec.run(small.plan(), place)):
        with pytest.raises(RunError, match="key: Input should be a valid string") as caught:
            use(run)
        assert "retrains the phase" in caught.value.problems[0].hint
    (run / "chat").rename(run.parent / "away")
    llmspec.run(small.plan(), run)
    assert llmspec.open(run).phase == "chat"


def test_a_phase_that_has_not_begun_gives_way_with_a_word(run: Path) -> None:
    shutil.rmtree(run / "chat")
    opened = llmspec.open(run)
    assert opened.phase == "pretrain" and opened.notices == [
        "chat has not begun yet: these are the weights of pretrain"
    ]


def test_numbers_that_are_not_finite_are_said(run: Path) -> None:
    arrays(run / "chat/step_2" / STATE, lambda found: next(iter(found.values())).fill(np.inf))
    shutil.rmtree(run / "chat/step_4")
    heard = small.Heard()
    with pytest.raises(RunError):
        llmspec.run(small.plan(), run, watcher=heard)
    assert any("not finite" in said for said in heard.notices)


def test_a_link_in_place_of_the_lock_empties_nothing(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("a letter")
    for link in (os.symlink, os.link):
        (run / ".lock").unlink(missing_ok=True)
        link(mine, run / ".lock")
        with pytest.raises(RunError):
            llmspec.run(small.plan(), run)
        assert mine.read_text() == "a letter"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_files_that_may_not_be_read_are_said_so(run: Path) -> None:
    (run / "chat/step_4" / WEIGHTS).chmod(0o600)
    for folder in (run, *run.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(0o755)
    shapes: dict[str, tuple[int, ...]] = {}

    def refused() -> str:
        try:
            checkpoint.attempt(run / "chat", "", lambda saved: saved.weights(shapes))
        except RunError as e:
            return str(e)
        return ""

    assert small.as_nobody(refused).find("permission denied (it belongs to user root, mode 0600)") > 0


def test_files_have_the_mode_of_the_umask(made: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert {oct(p.stat().st_mode & 0o777) for p in made.rglob("*") if p.is_file()} == {oct(0o666 & ~mask)}


def test_a_model_that_does_not_fit_says_what_it_takes() -> None:
    plan = small.plan()
    assert not too_large(plan)
    longer = plan.model.model_copy(update={"context": 10**12})
    assert "context of 1,000,000,000,000 tokens take" in too_large(plan.model_copy(update={"model": longer}))
