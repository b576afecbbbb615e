"""GGUF files made for tests, by the library `gguf`: tokenizers and weights of nobody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmspec.compiler.plan import ModelPlan
from llmspec.core.quantised import Quantised, quantise
from llmspec.core.weight_types import TYPES
from llmspec.formats.gguf.metadata import read_metadata
from llmspec.formats.gguf.tables import LM, Table
from llmspec.formats.hf import names
from llmspec.model.weights import draw
from llmspec.parts.tokenizers.library import alphabet

SPECIALS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<tool>")
VOCAB = 288
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("he", "ll", "hell", "hello", "Ġw", "Ġwo", "or", "ld", "Ġworld", "Ġt")
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "o r", "l d", "Ġwo rld", "Ġ t")
SIZES = {
    "context_length": 64,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


def vocabulary() -> list[str]:
    """Pieces in the order of their ids."""
    pieces = [*SPECIALS, *alphabet(), *WORDS[:-2], "rld", *WORDS[-2:]]
    return [*pieces, *(f"Ġword{i}" for i in range(VOCAB - len(pieces)))]


def tokenizer(pre: str = "gpt-2") -> dict[str, Any]:
    """Metadata of a byte-level tokenizer of `VOCAB` ids."""
    kinds = [3] * (len(SPECIALS) - 1) + [4] + [1] * (VOCAB - len(SPECIALS))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": vocabulary(),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": list(merges()),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }


def merges() -> tuple[str, ...]:
    """Pairs of pieces, the first merged first."""
    return (*MERGES[:-2], "r ld", *MERGES[-2:])


def metadata(table: Table, **changed: Any) -> dict[str, Any]:
    """Metadata of a small model of an architecture, with what a table asks for and nothing says otherwise."""
    rules = {**table.fields, **table.architectures[LM].fields}
    own = {key: size for key, size in SIZES.items() if key in rules and rules[key].to}
    own |= {key: value for key, value in OWN.items() if key in rules and (rules[key].required or key == WINDOW)}
    found: dict[str, Any] = {"general.architecture": table.model_type, **tokenizer()}
    found |= {f"{table.model_type}.{key}": value for key, value in own.items()}
    return {**found, **changed}


WINDOW = "attention.sliding_window"
OWN: dict[str, Any] = {
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.key_length": 16,
    "attention.value_length": 16,
    WINDOW: 16,
    "expert_count": 4,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
    "expert_shared_feed_forward_length": 32,
    "use_parallel_residual": True,
    "rope.dimension_count": 8,
}
"""What some architectures ask for besides."""


def drawn(model: ModelPlan, seed: int = 3) -> dict[str, np.ndarray]:
    """Weights of a model of ours."""
    return {t.name: (draw(t, seed) + np.float32(0.01)).astype(np.float32) for t in model.tensors}


def tensors_of(table: Table, model: ModelPlan, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as a file of the architecture has them."""
    found: dict[str, np.ndarray] = {}
    for group in names.groups(table, table.architectures[LM], model):
        arrays = group.join([weights[name] for name, _ in group.ours])
        found.update(zip((name for name, _ in group.theirs), arrays, strict=True))
    return found


def write(
    path: Path, fields: Mapping[str, Any], tensors: Mapping[str, np.ndarray], types: Mapping[str, str] | None = None
) -> Path:
    """A file with these metadata and tensors, some of them in other types than float32."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, str(fields["general.architecture"]))
    for key, value in fields.items():
        if key != "general.architecture":
            _add(writer, key, value)
    for name, array in tensors.items():
        kind = (types or {}).get(name, "f32")
        found = quantise(kind, np.ascontiguousarray(array, np.float32))
        _tensor(writer, name, found)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _tensor(writer: Any, name: str, found: Quantised) -> None:
    from gguf import GGMLQuantizationType

    number = GGMLQuantizationType(TYPES[found.type].ggml)
    raw = np.ascontiguousarray(found.whole()).reshape(*found.shape[:-1], -1)
    if found.type == "f32":
        raw = raw.view(np.float32)
    writer.add_tensor(name, raw, raw_dtype=number)


def small(path: Path, table: Table, types: Mapping[str, str] | None = None, **changed: Any) -> Path:
    """A small model of an architecture with drawn weights, written to a file."""
    return write(path, *small_model(table, **changed), types)


def small_model(table: Table, **changed: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and tensors of a small model of an architecture."""
    from llmspec.formats.hf.same_model import planned
    from llmspec.spec.schema import ModelSpec

    fields = metadata(table, **changed)
    read = read_metadata(fields, [name.removeprefix("@") for name in table.when])
    assert not isinstance(read, list), read
    assert not read.problems, read.problems
    model = planned(ModelSpec.model_validate_json(json.dumps(read.model)))
    return fields, tensors_of(table, model, drawn(model))


def small_parts(folder: Path, table: Table, parts: int) -> Path:
    """The same in several files; the first of them."""
    fields, tensors = small_model(table)
    folder.mkdir()
    names = list(tensors)
    for part in range(parts):
        own = {"split.no": part, "split.count": parts, "split.tensors.count": len(names)}
        about = {**fields, **own} if part == 0 else {"general.architecture": table.model_type, **own}
        path = folder / f"small-{part + 1:05}-of-{parts:05}.gguf"
        write(path, about, {name: tensors[name] for name in names[part::parts]})
    return folder / f"small-00001-of-{parts:05}.gguf"
