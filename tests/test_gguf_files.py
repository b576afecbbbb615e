"""Models in GGUF files: every mapping table opens what it writes, types stay, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
import pytest
from typer.testing import CliRunner

import llmspec
from llmspec.api import compiled, explained_file
from llmspec.cli.app import app
from llmspec.core.problems import RunError
from llmspec.core.quantised import Quantised, as_float32, quantise
from llmspec.exchange.importing import import_folder
from llmspec.explain.file import explain_file
from llmspec.formats.gguf import kept
from llmspec.formats.gguf.importing import GGUFFile, is_gguf
from llmspec.formats.gguf.tables import tables
from llmspec.formats.hf.family import families
from llmspec.formats.opening import stored_model
from llmspec.runs.model_folder import ModelFolder
from llmspec.training import start_models

LLAMA = tables()["llama"]
TYPES = {
    "token_embd.weight": "q8_0",
    "blk.0.attn_q.weight": "q4_0",
    "blk.0.attn_k.weight": "q8_0",
    "blk.1.ffn_up.weight": "bf16",
    "blk.1.ffn_down.weight": "q5_1",
}


@pytest.mark.parametrize("name", tables())
def test_every_table_reads_what_it_has_written(name: str, tmp_path: Path) -> None:
    stored = GGUFFile(gguf_files.small(tmp_path / "small.gguf", tables()[name]))
    plan = stored.plan()
    drawn = gguf_files.drawn(plan.model)
    _, weights, notices = stored.weights(plan)
    assert [n.split(":")[0] for n in notices] == ["the file does not say how to draw from it"]
    assert plan.decoding.temperature == 0.8 and plan.decoding.top_k == 40
    assert set(weights) == set(drawn)
    for tensor, array in weights.items():
        np.testing.assert_allclose(array, drawn[tensor], rtol=0, atol=1e-7, err_msg=tensor)  # 1 is added and taken away


@pytest.mark.parametrize("name", tables())
def test_tables_name_a_family_that_there_is(name: str) -> None:
    table = tables()[name]
    assert table.transformers in {f.model_type for f in families().values()}


def test_rows_of_neighbours_are_a_permutation_of_those_of_halves(tmp_path: Path) -> None:
    """llama.cpp's own order: of each head (2, half) becomes (half, 2)."""
    stored = GGUFFile(gguf_files.small(tmp_path / "small.gguf", LLAMA))
    plan = stored.plan()
    ours = gguf_files.drawn(plan.model)["layers.0.attention.q_proj.weight"]
    heads, width = 4, ours.shape[1]
    theirs = ours.reshape(heads, 2, len(ours) // heads // 2, width).swapaxes(1, 2).reshape(ours.shape)
    found = stored.files.quantised("blk.0.attn_q.weight").dequantised()
    np.testing.assert_array_equal(found, theirs)


def test_types_stay_what_they_are_in_the_file_and_in_what_is_imported(tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA, TYPES)
    stored = GGUFFile(path)
    plan = stored.plan()
    drawn = gguf_files.drawn(plan.model)
    _, weights, _ = stored.weights(plan)
    kept = {name: w.type for name, w in weights.items() if isinstance(w, Quantised)}
    assert kept == {
        "embed_tokens.weight": "q8_0",
        "layers.0.attention.q_proj.weight": "q4_0",
        "layers.0.attention.k_proj.weight": "q8_0",
        "layers.1.mlp.down_proj.weight": "q5_1",
        "layers.1.mlp.up_proj.weight": "bf16",
    }
    for name, kind in kept.items():
        np.testing.assert_array_equal(as_float32(weights[name]), quantise(kind, drawn[name]).dequantised())

    found = import_folder(path, tmp_path / "imported")
    assert (found.family, found.architecture) == ("llama", "llama")
    folder = stored_model(tmp_path / "imported")
    assert isinstance(folder, ModelFolder)
    assert folder.notes.types == kept
    _, again, _ = folder.weights(folder.plan())
    for name, weight in weights.items():
        assert isinstance(again[name], Quantised) == isinstance(weight, Quantised)
        np.testing.assert_array_equal(as_float32(again[name]), as_float32(weight))


def test_a_file_and_its_import_answer_alike(tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA, TYPES)
    import_folder(path, tmp_path / "imported")
    one, two = llmspec.open(path), llmspec.open(tmp_path / "imported")
    assert one.chat and two.chat
    ids = one.tokens([("user", "hello world")])
    assert ids == two.tokens([("user", "hello world")])
    assert one.codec.decode(ids, specials=True) == "<|im_start|>user\nhello world<|im_end|>\n<|im_start|>assistant\n"
    np.testing.assert_array_equal(one.logits(ids), two.logits(ids))


MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"general.architecture": "lama"}, "did you mean `llama`"),
    ({"llama.rope.scaling.type": "longrope"}, "longrope"),
    ({"llama.rope.dimension_count": 8}, "only 16"),
    ({"llama.attention.value_length": 8}, "only 16"),
    ({"llama.logit_scale": 2.0}, "only 1.0 is understood"),
    ({"llama.expert_cnt": 4}, "did you mean `expert_count`"),
    ({"llama.attention.head_count": 3}, "heads"),
    ({"llama.block_count": 3}, "tensors are missing"),
    ({"llama.block_count": 1}, "no place in the model"),
    ({"llama.feed_forward_length": 32}, "its metadata make it [32, 64]"),
    ({"llama.vocab_size": 300}, "its metadata make it [300, 64]"),
    ({"llama.embedding_length": "64"}, "model.d_model"),
    ({"llama.block_count": 1 << 31}, "model.layers"),
    ({"tokenizer.ggml.model": "rwkv"}, "the model 'rwkv'"),
    ({"tokenizer.ggml.pre": "smolm"}, "did you mean `smollm`"),
    ({"tokenizer.ggml.merges": ["he zz"]}, "no pair of pieces"),
    ({"tokenizer.ggml.bos_token_id": 99_999}, "ids 0 to 287"),
    ({"tokenizer.ggml.token_type": [1, 2]}, "no number for each of 288 pieces"),
    ({"tokenizer.ggml.normaliser": True}, "`tokenizer.ggml.normaliser` is not understood"),
    ({"tokenizer.ggml.tokens": ["a"] * 288}, "are both 'a'"),
    ({"tokenizer.chat_template": "{% for %}"}, "chat template"),
]
"""Metadata that do not fit, and what is said of them."""
misfits = pytest.mark.parametrize(("changed", "meant"), MISFITS)


def misfit(changed: dict[str, Any], folder: Path) -> Path:
    """A file whose metadata were changed."""
    plan = GGUFFile(gguf_files.small(folder / "right.gguf", LLAMA)).plan()
    fields = {**gguf_files.metadata(LLAMA), **changed}
    tensors = gguf_files.tensors_of(LLAMA, plan.model, gguf_files.drawn(plan.model))
    return gguf_files.write(folder / "wrong.gguf", fields, tensors)


@misfits
def test_what_does_not_fit_is_named(changed: dict[str, Any], meant: str, tmp_path: Path) -> None:
    stored = GGUFFile(misfit(changed, tmp_path))
    with pytest.raises(RunError) as found:
        stored.weights(stored.plan())
    told = " ".join(f"{p.message} {p.hint}" for p in found.value.problems)
    assert meant in told
    assert "wrong.gguf" in told


def test_a_tokenizer_without_its_merges_is_named(tmp_path: Path) -> None:
    plan = GGUFFile(gguf_files.small(tmp_path / "right.gguf", LLAMA)).plan()
    fields = gguf_files.metadata(LLAMA)
    del fields["tokenizer.ggml.merges"]
    tensors = gguf_files.tensors_of(LLAMA, plan.model, gguf_files.drawn(plan.model))
    with pytest.raises(RunError, match="without its merges"):
        GGUFFile(gguf_files.write(tmp_path / "wrong.gguf", fields, tensors)).plan()


@pytest.mark.parametrize("kind", ["f32", "q8_0", "f16"])
def test_numbers_that_are_not_finite_are_named(kind: str, tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA, {"blk.1.attn_v.weight": kind})
    entry = GGUFFile(path).files.tensors["blk.1.attn_v.weight"]
    raw = bytearray(path.read_bytes())
    raw[entry.start : entry.start + 4] = (
        b"\xff\xff\xff\xff" if kind != "q8_0" else b"\xff\x7f" + raw[entry.start + 2 : entry.start + 4]
    )
    path.write_bytes(raw)
    stored = GGUFFile(path)
    with pytest.raises(RunError, match=r"blk\.1\.attn_v\.weight has numbers that are NaN or infinite"):
        stored.weights(stored.plan())


def test_a_quantised_file_of_ours_that_was_changed_is_refused(tmp_path: Path) -> None:
    import json

    import_folder(gguf_files.small(tmp_path / "small.gguf", LLAMA, TYPES), tmp_path / "imported")
    notes = tmp_path / "imported" / "model.json"
    for name, kind, meant in (
        ("embed_tokens.weight", "q4_0", "does not belong here"),
        ("embed_tokens.weight", "q9_9", "cannot be of the type"),
        ("nothing.weight", "q8_0", "cannot be of the type"),
        ("final_norm.weight", "q8_0", "does not belong here"),
    ):
        found = json.loads(notes.read_text())
        found["types"] = {**found["types"], name: kind}
        other = tmp_path / f"{name}-{kind}"
        other.mkdir()
        for file in (tmp_path / "imported").iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        (other / "model.json").write_text(json.dumps(found))
        with pytest.raises(RunError, match=meant):
            stored_model(other).weights(stored_model(other).plan())


def test_what_is_a_gguf_file(tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA)
    assert is_gguf(path)
    other = tmp_path / "blob"
    other.write_bytes(path.read_bytes())
    assert is_gguf(other)
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "absent.gguf")


def test_explain_tells_types_tokenizer_and_what_is_understood(tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA, TYPES, **{"general.license": "mit", "quantize.note": "x"})
    found = explain_file(GGUFFile(path))
    stored = GGUFFile(path)
    assert found.parameters == stored.plan().model.parameters
    assert sum(row.bytes for row in found.types) == sum(e.size for e in stored.files.tensors.values())
    assert sum(row.bytes for row in found.tensors) == sum(row.bytes for row in found.types)
    assert {row.type: row.tensors for row in found.types}["q8_0"] == 2
    assert found.bits == 8 * sum(row.bytes for row in found.types) / found.parameters
    assert (found.begins, found.ends, found.license) == ("<s>", ("</s>", "<|im_end|>"), "mit")
    read = {row.key: row.read for row in found.keys}
    assert read["llama.block_count"] and read["general.architecture"] and read["tokenizer.ggml.pre"]
    assert not read["general.license"] and not read["quantize.note"]
    assert explained_file(path) == found
    assert explained_file(tmp_path) is None


@misfits
def test_explain_tells_what_needs_no_understanding_beside_what_is_not_understood(
    changed: dict[str, Any], meant: str, tmp_path: Path
) -> None:
    path = misfit(changed, tmp_path)
    right, stored = explain_file(GGUFFile(tmp_path / "right.gguf")), GGUFFile(path)
    with pytest.raises(RunError) as refused:
        stored.weights(stored.plan())
    found = explain_file(GGUFFile(path))
    assert {*refused.value.problems} <= {*found.problems} and not right.problems
    assert (found.types, found.tensors, found.bits) == (right.types, right.tensors, right.bits)
    said = {**GGUFFile(tmp_path / "right.gguf").files.metadata, **changed}
    assert found.tokenizer == ", ".join(said[f"tokenizer.ggml.{key}"] for key in ("model", "pre"))
    assert found.chat_template == said["tokenizer.chat_template"]
    assert {row.key for row in found.keys} == {*said} and found.architecture == said["general.architecture"]
    done = CliRunner().invoke(app, ["explain", str(path), "--json"])
    data = json.loads(done.stdout)
    assert done.exit_code == 2 and data.pop("ok") is False and data.pop("status") == 2
    assert data == json.loads(json.dumps(found.as_data()))
    assert meant in " ".join(f"{p['message']} {p['hint']}" for p in data["problems"])


def test_what_is_not_understood_stands_below_what_is(tmp_path: Path) -> None:
    for changed, layers in (({"general.architecture": "lama", "lama.block_count": 5}, 5), ({"llama.new_key": 1}, 2)):
        done = CliRunner().invoke(app, ["explain", str(misfit(changed, tmp_path))])
        shown, words = done.stdout, " ".join(done.stdout.split())
        assert done.exit_code == 2 and "refused the problems stand below" in words and f"{layers} layers" in words
        assert "blk.*.ffn_up.weight" in shown and "gpt2, gpt-2" in words and "<|im_start|>" in shown
        assert "lama`" in done.stderr or "new_key" in done.stderr


@pytest.mark.parametrize("parts", [2, 3])
def test_several_files_are_one_model(parts: int, tmp_path: Path) -> None:
    whole = GGUFFile(gguf_files.small(tmp_path / "small.gguf", LLAMA))
    first = gguf_files.small_parts(tmp_path / "parts", LLAMA, parts)
    stored = GGUFFile(first)
    assert len(stored.files.headers) == parts
    plan = stored.plan()
    _, weights, _ = stored.weights(plan)
    for name, array in whole.weights(whole.plan())[1].items():
        np.testing.assert_array_equal(as_float32(weights[name]), as_float32(array))
    second = first.with_name(first.name.replace("-00001-of", "-00002-of"))
    with pytest.raises(RunError, match=f"is file 2 of {parts}") as told:
        GGUFFile(second).files  # noqa: B018
    assert first.name in told.value.problems[0].hint
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(RunError, match=r"files of .* are missing"):
        GGUFFile(first).files  # noqa: B018
    second.write_bytes(first.read_bytes())
    with pytest.raises(RunError, match="it says that it is file"):
        GGUFFile(first).files  # noqa: B018
    second.write_bytes(kept)
    alone = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(RunError, match="its name does not say where they are"):
        GGUFFile(alone).files  # noqa: B018


def test_a_tokenizer_is_made_once_and_again_where_what_was_kept_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA)
    made = list[str]()
    real = kept.tokenizing
    monkeypatch.setattr(kept, "tokenizing", lambda said, file: made.append(file) or real(said, file))
    first = GGUFFile(path).plan()
    assert GGUFFile(path).plan() == first
    assert len(made) == 1
    (file,) = (tmp_path / "cache" / "gguf").glob("*/tokenizer.json")
    whole = file.read_text()
    for damaged in (whole[:-9], whole.replace("hello", "hullo"), ""):
        file.write_text(damaged)
        assert GGUFFile(path).plan() == first
        assert file.read_text() == whole
    assert len(made) == 4


def test_training_starts_from_a_file_as_from_its_import(tmp_path: Path) -> None:
    """In float32: quantised weights are not trained."""
    path = gguf_files.small(tmp_path / "small.gguf", LLAMA, TYPES)
    import_folder(path, tmp_path / "imported")
    (tmp_path / "more.yaml").write_text(
        "extends: imported/spec.yaml\n"
        "name: more\n"
        "data:\n"
        "  sources: {notes: {kind: inline, documents: [hello world, hello], validation: tail 50%}}\n"
        "phases:\n"
        "  more:\n"
        "    kind: pretrain\n"
        "    from: {model: small.gguf}\n"
        "    mixture: {notes: 100%}\n"
        "    budget: 1 steps\n"
        "    micro_batch_size: 1\n"
        "    optimizer: {kind: adamw, lr: 1e-3}\n"
    )
    found = {}
    for start in ("small.gguf", "imported"):
        _, plan = compiled(tmp_path / "more.yaml", [f"phases.more.from.model={tmp_path / start}"])
        phase = start_models.closed(plan).phases[0].phase
        found[start] = phase.from_.digest
        for name, array in start_models.weights_of(plan, phase.from_).items():
            assert array.dtype == np.float32, name
    assert found["small.gguf"] == found["imported"]
