"""`llmspec import` and `llmspec export`: what is written, and that what reads back differently is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import pytest
import reference
from test_hf_folders import config, written

import llmspec
from llmspec.core.problems import LlmspecError, RunError
from llmspec.exchange import exporting, read_back
from llmspec.exchange.importing import import_folder
from llmspec.formats.hf.family import families
from llmspec.formats.hf.importing import HFFolder
from llmspec.parts.templates.base import Turn, encode

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exchange")
    written(place / "theirs", {**config(families()["qwen3"]), "max_position_embeddings": 128})
    hf_folders.write_tokenizer(place / "theirs", 262, TEMPLATE)
    import_folder(place / "theirs", place / "ours")
    return place / "ours"


def test_an_imported_model_is_the_folders(imported: Path) -> None:
    one, other = llmspec.open(imported), llmspec.open(imported.parent / "theirs")
    ids = list(range(20))
    np.testing.assert_array_equal(one.logits(ids), other.logits(ids))
    turns = [("user", "What is a comet? <end>")]
    assert one.tokens(turns) == other.tokens(turns) and one.chat
    assert one.codec.vocab == 262 and one.plan.model.vocab == 264


def test_its_spec_describes_it(imported: Path) -> None:
    plan = llmspec.compile(llmspec.load_spec(imported / "spec.yaml").spec)
    assert plan.model == llmspec.open(imported).plan.model


def test_a_padded_vocabulary_is_never_drawn(imported: Path) -> None:
    model = llmspec.open(imported)
    drawn = model.generate("a", chat=False, n=8, temperature=50.0, max_tokens=40)
    assert all(token < 262 for answer in drawn for token in answer.tokens)


def test_what_is_exported_is_read_back(imported: Path, tmp_path: Path) -> None:
    model = llmspec.open(imported)
    found = exporting.export_folder(model, tmp_path / "out", origin="qwen3", shard=20_000)
    assert found.architecture == "Qwen3ForCausalLM" and "model.safetensors.index.json" in found.files
    assert found.compared[0].logits == 0 and found.compared[0].chat
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "## Spec" in card and "kind: grouped_query" in card
    stored = HFFolder(tmp_path / "out")
    _, back, _ = stored.weights(stored.plan())
    assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in model.weights().items()}
    with pytest.raises(RunError, match="is there already"):
        exporting.export_folder(model, tmp_path / "out")


def test_a_family_that_lacks_parts_is_refused_by_what_it_lacks(imported: Path, tmp_path: Path) -> None:
    model = llmspec.open(imported)
    with pytest.raises(RunError, match="qk_norm"):
        exporting.export_folder(model, tmp_path / "out", family="llama")
    with pytest.raises(RunError, match="no mapping table is called `lama`"):
        exporting.export_folder(model, tmp_path / "out", family="lama")


def test_what_reads_back_differently_is_not_done(
    imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = read_back.open_model

    def other(folder: Path) -> Any:
        (weights,) = folder.glob("*.safetensors")
        raw = bytearray(weights.read_bytes())
        raw[-400:] = np.ones(100, "<f4").tobytes()
        weights.write_bytes(raw)
        generation = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        hf_folders.write(folder / "tokenizer_config.json", {**generation, "bos_token": "</s>"})
        return true(folder)

    monkeypatch.setattr(read_back, "open_model", other)
    with pytest.raises(RunError) as error:
        exporting.export_folder(llmspec.open(imported), tmp_path / "out")
    said = str(error.value)
    assert "logits are" in said and "the form of dialogues differ" in said and "the export is not the model" in said


def test_what_is_no_folder_of_theirs_is_said(imported: Path, tmp_path: Path) -> None:
    for path, said in ((tmp_path, "no config.json"), (tmp_path / "a", "no such folder"), (imported, "needs no import")):
        with pytest.raises(RunError, match=said):
            import_folder(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_model_that_sees_both_sides_draws_no_text(name: str, tmp_path: Path) -> None:
    """By no way: neither alone nor streamed nor beside others; and it is said what it is for."""
    written(tmp_path, config(families()[name]))
    model = llmspec.open(tmp_path)
    ways: list[Callable[[], Any]] = [
        lambda: model.generate("ab"),
        lambda: list(model.stream("ab")),
        lambda: list(model.generate_batch(["ab"])),
    ]
    for way in ways:
        with pytest.raises(LlmspecError, match="goes on with no text") as error:
            way()
        assert "llmspec embed" in error.value.problems[0].hint


def test_what_cannot_be_imported_says_what_can(tmp_path: Path) -> None:
    """What is read is no run, and what is said of it reaches the terminal all the same."""
    from typer.testing import CliRunner

    from llmspec.cli.app import app

    written(tmp_path / "a", config(families()["llama"]))
    hf_folders.write(tmp_path / "a" / "config.json", {**config(families()["llama"]), "model_type": "mamba"})
    said = CliRunner().invoke(app, ["import", str(tmp_path / "a"), "--out", str(tmp_path / "b")])
    assert said.exit_code == 2 and "known are: bert" in " ".join(said.output.split())


@pytest.mark.parametrize("length", [5, 33, 40])
def test_logits_of_a_text_are_not_those_of_a_longer_one(length: int, tmp_path: Path) -> None:
    """Where angles follow a text's length, what a graph has more places for is no text."""
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    written(tmp_path, {**config(families()["llama"]), "rope_parameters": rope})
    model = llmspec.open(tmp_path)
    assert model.plan.model.context == 128
    ids = np.random.default_rng(length).integers(6, 264, length)
    exact = reference.row_logits(model.plan.model, reference.double(model.weights()), ids)
    np.testing.assert_allclose(model.logits(ids)[0], exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    _, last = model.decoder.prefill([ids.tolist()])
    np.testing.assert_allclose(last[0], exact[-1], rtol=0, atol=1e-5 * np.abs(exact).max())


def asked_for_pairs(model: Any, folder: Path) -> tuple[Any, str]:
    """(the model that is read back from its export, as one whose prompts are sources of pairs; the model card)."""
    model.pairs = True
    found = exporting.export_folder(model, folder)
    assert found.compared[0].chat and found.compared[0].texts
    return llmspec.open(folder), (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_prompts_of_pairs_are_exported_in_their_form(family: str, tmp_path: Path) -> None:
    """A decoder alone reads an end token behind the source, an encoder what its tokenizer puts there."""
    rows = {"max_position_embeddings": 128} if family == "llama" else {}
    written(tmp_path / "theirs", {**config(families()[family]), **rows})
    hf_folders.write_tokenizer(tmp_path / "theirs", 262, "", ended=family == "t5")
    model = llmspec.open(tmp_path / "theirs")
    again, card = asked_for_pairs(model, tmp_path / "out")
    source = "a </s> b {{ messages }}\n"
    wanted = model.tokens(source)
    end = model.codec.specials.eos
    assert wanted[-1] == end and wanted.count(end) == 1, "what a source spells is only text"
    assert again.chat and again.tokens(source) == wanted
    assert again.tokens([("user", "x"), ("assistant", "y"), ("user", source)]) == wanted, "of one pair, as `sample`"
    assert "## How it is asked" in card and "apply_chat_template" in card
    whole = again.plan.chat_template.render(model.codec.specials, [Turn("user", (source,)), Turn("assistant", ("y",))])
    assert encode(model.codec, whole) == [*wanted, *model.codec.encode(["y"])[0], end]
