"""Hugging Face folders without transformers: written and read again by every mapping table, and refused by name."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hf_folders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.core.problems import LlmspecError, RunError
from llmspec.core.quantised import Quantised, as_float32
from llmspec.formats.hf import exporting
from llmspec.formats.hf.family import Family, families
from llmspec.formats.hf.importing import HFFolder, is_hf_folder
from llmspec.formats.hf.weights import Files
from llmspec.formats.hf.writing import config_of
from llmspec.model.weights import draw

SIZES = {
    ("vocab_size",): 264,
    ("hidden_size", "n_embd", "d_model"): 24,
    ("num_hidden_layers", "n_layer", "num_layers"): 3,
    ("num_attention_heads", "n_head", "num_heads"): 4,
    ("num_key_value_heads",): 2,
    ("intermediate_size", "n_inner", "d_ff"): 20,
    ("max_position_embeddings", "n_positions"): 32,
    ("head_dim", "d_kv"): 8,
    ("pad_token_id",): 2,
}


def config(family: Family) -> dict[str, Any]:
    """A small config of a family, with the sizes that it asks for and all else as transformers takes it."""
    known = {**family.fields, **next(iter(family.architectures.values())).fields}
    sizes = {name: size for names, size in SIZES.items() for name in names if name in known}
    return {"model_type": family.model_type, "architectures": [next(iter(family.architectures))], **sizes}


def written(folder: Path, fields: dict[str, Any], shard: int = exporting.SHARD) -> HFFolder:
    """A folder with drawn weights."""
    folder.mkdir(exist_ok=True)
    hf_folders.write(folder / "config.json", fields)
    hf_folders.write_tokenizer(folder, 264)
    stored = HFFolder(folder)
    plan = stored.plan()
    made = {t.name: draw(t, 3) + np.float32(0.01) for t in plan.model.tensors}
    groups = exporting.groups_of(config_of(plan.model, fields["model_type"]), plan)
    exporting.write_weights(folder, groups, made, shard, lambda what, done, total: None)
    return HFFolder(folder)


@pytest.mark.parametrize("name", sorted(families()))
def test_what_a_table_writes_it_reads(name: str, tmp_path: Path) -> None:
    family = families()[name]
    stored = written(tmp_path / "a", config(family))
    plan = stored.plan()
    _, weights, _ = stored.weights(plan)
    for t in plan.model.tensors:
        np.testing.assert_array_equal(weights[t.name], draw(t, 3) + np.float32(0.01))
    again = config_of(plan.model, name)
    assert again.family == family
    exporting.write(tmp_path / "b", again, plan, weights, stored.tokenizer(plan), "a card", shard=9000)
    other = HFFolder(tmp_path / "b")
    _, back, _ = other.weights(other.plan())
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 1
    assert {n: a.tobytes() for n, a in back.items()} == {n: a.tobytes() for n, a in weights.items()}
    assert config_of(other.plan().model, name).fields == again.fields


# -- bad input ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf") / "sound"
    written(folder, config(families()["llama"]))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def opened(folder: Path) -> Any:
    stored = HFFolder(folder)
    plan = stored.plan()
    stored.tokenizer(plan)
    return stored.weights(plan)


def table(file: str, change: Callable[[Any], Any]) -> Callable[[Path], Any]:
    def changed(folder: Path) -> None:
        found = json.loads((folder / file).read_text("utf-8"))
        change(found)
        hf_folders.write(folder / file, found)

    return changed


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Another header before the same bytes."""

    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        found = json.loads(raw[8 : 8 + length])
        change(found)
        text = json.dumps(found).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return changed


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def put(array: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = bytearray(path.read_bytes())
        numbers = np.frombuffer(raw, "<f4", 8, len(raw) - 32)
        array(numbers)
        path.write_bytes(raw)

    return changed


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def linked(folder: Path) -> None:
    target = folder.parent / "elsewhere.safetensors"
    (folder / "model.safetensors").rename(target)
    (folder / "model.safetensors").symlink_to(target)


def sharded(shard: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        place = dict.fromkeys(Files(folder).entries, shard)
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        hf_folders.write(folder / "model.safetensors.index.json", {"weight_map": place})

    return changed


Q = "model.layers.0.self_attn.q_proj.weight"
CONFIG = "config.json"
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "config.json is missing"),
    "broken config": (lambda f: (f / CONFIG).write_text('{"a": '), "config.json is damaged"),
    "a list as config": (lambda f: (f / CONFIG).write_text("[]"), "it holds no map"),
    "code": (table(CONFIG, lambda c: c.update(auto_map={"AutoModel": "m.M"})), "names code of its own: `auto_map`"),
    "an unknown field": (table(CONFIG, lambda c: c.update(clip_qkv=8.0)), "the field `clip_qkv` is not understood"),
    "a fixed field": (table(CONFIG, lambda c: c.update(rope_interleaved=True)), "only false is understood"),
    "an unknown family": (table(CONFIG, lambda c: c.update(model_type="lama")), "did you mean `llama`"),
    "an unknown head": (
        table(CONFIG, lambda c: c.update(architectures=["LlamaForCausal"])),
        "the architecture 'LlamaForCausal' is not known",
    ),
    "an activation": (table(CONFIG, lambda c: c.update(hidden_act="mish")), "`hidden_act` is 'mish'"),
    "a scaling": (
        table(CONFIG, lambda c: c.update(rope_scaling={"type": "longrope", "factor": 2.0})),
        "rope_type 'longrope' is not known",
    ),
    "quantised": (table(CONFIG, lambda c: c.update(quantization_config={"bits": 4})), "the weights are quantised"),
    "no size": (table(CONFIG, lambda c: c.pop("hidden_size")), "the field `hidden_size` is missing"),
    "a size of text": (table(CONFIG, lambda c: c.update(hidden_size="24")), "cannot be a model"),
    "absurd sizes": (table(CONFIG, lambda c: c.update(hidden_size=10**12)), "cannot be a model"),
    "more layers": (table(CONFIG, lambda c: c.update(num_hidden_layers=4)), "tensors are missing that config.json"),
    "fewer layers": (table(CONFIG, lambda c: c.update(num_hidden_layers=2)), "have no place in the model"),
    "other shapes": (table(CONFIG, lambda c: c.update(intermediate_size=21)), "and config.json makes it"),
    "ties": (table(CONFIG, lambda c: c.update(tie_word_embeddings=True)), "and its numbers are others"),
    "a larger tokenizer": (lambda f: hf_folders.write_tokenizer(f, 300), "the tokenizer has 300 ids"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
    "a broken generation_config": (lambda f: (f / "generation_config.json").write_text("[1"), "is damaged"),
    "cut": (cut, "and its arrays need"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "an empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "its header would have"),
    "a pickle": (pickled, "a pickle, and no model.safetensors"),
    "a link": (linked, "it is a link, not a file"),
    "NaN": (put(lambda a: a.fill(np.nan)), "NaN or infinite"),
    "infinity": (put(lambda a: a.fill(-np.inf)), "NaN or infinite"),
    "a header's size": (
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}"),
        "its header would have 4,611,686,018,427,387,904 bytes",
    ),
    "an absurd shape": (header(lambda h: h[Q].update(shape=[1 << 60, 1 << 60])), "impossible shape"),
    "negative sizes": (header(lambda h: h[Q].update(shape=[-32, -24])), "impossible shape"),
    "offsets": (header(lambda h: h[Q].update(data_offsets=[0, 1 << 70])), "do not lie where"),
    "overlaps": (header(lambda h: h[Q].update(data_offsets=[0, 4 * 32 * 24])), "overlap others"),
    "a type": (header(lambda h: h[Q].update(dtype="F8_E4M3")), "which is not read"),
    "integers": (header(lambda h: h[Q].update(dtype="I32")), "no floats"),
    "another name": (header(lambda h: h.update({"x": h.pop(Q)})), "tensors are missing"),
    "a shard outside": (sharded("../model.safetensors"), "no safetensors file of the folder"),
    "an absolute shard": (sharded("/etc/passwd"), "no safetensors file of the folder"),
    "a shard missing": (sharded("b.safetensors"), "1 of 1 files of weights are missing"),
    "an index of nothing": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
        "no `weight_map`",
    ),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_wrong_is_named(what: str, folder: Path) -> None:
    opened(folder)
    change, said = WRONG[what]
    change(folder)
    with pytest.raises(LlmspecError) as error:
        opened(folder)
    assert said in str(error.value), error.value


PAIRED: dict[str, tuple[dict[str, Any], str]] = {
    "a gate that is none": ({"is_gated_act": True}, "`feed_forward_proj` is relu, but `is_gated_act` is True"),
    "another activation": ({"dense_act_fn": "silu"}, "`dense_act_fn` is silu, which is relu beside it"),
    "no special token": ({"decoder_start_token_id": 7}, "no special token has this id"),
    "a token of text": ({"decoder_start_token_id": "2"}, "no special token has this id"),
    "another padding": ({"pad_token_id": 0}, "`pad_token_id` is 0, and the tokenizer's is 2"),
    "no encoder": ({"is_encoder_decoder": False}, "only true is understood"),
    "a width of nothing": ({"d_model": -3}, "no positive number"),
    "a head of its own": ({"tie_word_embeddings": False}, "1 tensors are missing that config.json asks for: lm_head"),
    "fewer layers of the encoder": ({"num_layers": 2, "num_decoder_layers": 3}, "have no place in the model"),
}


@pytest.mark.parametrize("what", list(PAIRED))
def test_what_is_wrong_of_an_encoder_and_a_decoder_is_named(
    what: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "pairs"
    fields, said = PAIRED[what]
    if not folder.exists():
        written(folder, config(families()["t5"]))
        opened(folder)
    (folder / CONFIG).write_text(json.dumps({**config(families()["t5"]), **fields}), "utf-8")
    with pytest.raises(LlmspecError) as error:
        opened(folder)
    assert said in str(error.value), error.value


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    table(CONFIG, lambda c: c.update(auto_map={"a": "b"}, clip_qkv=1, hidden_act="mish"))(folder)
    with pytest.raises(RunError) as error:
        opened(folder)
    assert len(error.value.problems) == 3


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=9))
def test_any_bytes_in_a_header_are_read_or_refused(sound: Path, at: int, put_in: bytes) -> None:
    """Never a crash, nor memory by a header's word: errors are ours, and arrays lie within the file."""
    folder = sound.parent / "fuzzed"
    if not folder.exists():
        shutil.copytree(sound, folder)
    raw = bytearray((sound / "model.safetensors").read_bytes())
    raw[at : at + len(put_in)] = put_in
    (folder / "model.safetensors").write_bytes(raw)
    try:
        opened(folder)
    except LlmspecError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)
FIELDS = [*families()["gemma3"].fields, "layer_types", "rope_parameters", "architectures", "model_type", "anything"]
FIELDS_OF = [("gemma3", name) for name in FIELDS] + [
    ("t5", name) for name in (*families()["t5"].fields, "scale_decoder_outputs", "is_gated_act")
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FIELDS_OF), JSON)
def test_any_value_of_a_field_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: tuple[str, str], value: Any
) -> None:
    family, name = field
    folder = tmp_path_factory.getbasetemp() / "fields"
    folder.mkdir(exist_ok=True)
    hf_folders.write_tokenizer(folder, 264)
    (folder / CONFIG).write_text(json.dumps({**config(families()[family]), name: value}), "utf-8")
    try:
        HFFolder(folder).plan()
    except LlmspecError:
        return


def halved(folder: Path) -> None:
    """Makes all weights bf16, cut off."""
    whole = Files(folder)
    text, end, body = {}, 0, b""
    for name in whole.entries:
        bits = (whole.array(name).view(np.uint32) >> 16).astype("<u2")
        text[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [end, end + bits.nbytes]}
        end, body = end + bits.nbytes, body + bits.tobytes()
    raw = json.dumps(text).encode()
    (folder / "model.safetensors").unlink()  # which is mapped
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + body)


def test_half_floats_stay_so_where_linear_layers_alone_read_them(folder: Path) -> None:
    wanted = {name: array.copy() for name, array in opened(folder)[1].items()}
    halved(folder)
    _, found, notices = opened(folder)
    assert any("BF16" in notice for notice in notices)
    for name, array in found.items():
        assert isinstance(array, Quantised) == (array.ndim == 2)
        np.testing.assert_allclose(as_float32(array), wanted[name], rtol=2**-7)


def test_weights_are_views_of_the_file(folder: Path) -> None:
    _, found, _ = opened(folder)
    assert not found["embed_tokens.weight"].flags.owndata
    assert is_hf_folder(folder) and not is_hf_folder(Path(os.devnull))
