"""Writes a model as a Hugging Face folder: config.json, safetensors in one or many files, tokenizer, generation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmspec.compiler.plan import Plan
from llmspec.core import strict_json
from llmspec.core.problems import RunError
from llmspec.data.pair_form import PairForm
from llmspec.formats.hf import generation
from llmspec.formats.hf.names import Group, groups
from llmspec.formats.hf.weights import INDEX, WHOLE
from llmspec.formats.hf.writing import Config, token_fields
from llmspec.parts.templates import ChatTemplate
from llmspec.runs import tensors
from llmspec.runs.files import new_folder, write_json, write_text

SHARD = 4 << 30
"""Bytes of a file of weights, at most, unless one tensor has more."""
MEANINGS = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
"""Special tokens that tokenizer_config.json names."""
ENDS = ("bos", "eos", "pad")
"""Special tokens whose ids config.json and generation_config.json name."""


def write(
    path: Path,
    config: Config,
    plan: Plan,
    weights: Mapping[str, Any],
    codec: Any,
    card: str,
    *,
    pairs: bool = False,
    longest: int | None = None,
    shard: int = SHARD,
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
) -> None:
    """Writes the folder aside and renames it once it is whole; `pairs`: prompts are sources of pairs; `longest`: tokens
    of a text that are read, where these are fewer than the context. Raises RunError where something stands there
    already, it cannot be written, or the tokenizer has no tokenizer.json of the `tokenizers` library."""
    text = tokenizer_text(codec)
    if plan.model.generating_head is None:
        text = framing(text, codec)
    with new_folder(path) as aside:
        write_json(aside / "config.json", {**config.fields, **ids_of(codec, config, plan)})
        write_weights(aside, groups_of(config, plan), weights, shard, progress)
        write_text(aside / "tokenizer.json", text)
        about = tokenizer_config(codec, plan)
        about |= {"model_max_length": longest} if longest else {}
        if template := template_of(plan, codec, pairs):
            write_text(aside / generation.TEMPLATE, template)
        write_json(aside / generation.TOKENIZER_CONFIG, about)
        settings = plan.decoding.model_dump(mode="json")
        ids = {name: getattr(codec.specials, name) for name in ENDS}
        ids["decoder_start"] = codec.specials.start_of(plan.model.decoder_start)
        write_json(aside / generation.FILE, generation.written(settings, ids))
        write_text(aside / "README.md", card)


def groups_of(config: Config, plan: Plan) -> list[Group]:
    """The tensors of a model as transformers names them."""
    return groups(config.family, config.of, plan.model)


def write_weights(
    folder: Path,
    every: list[Group],
    weights: Mapping[str, Any],
    shard: int,
    progress: Callable[[str, float, float], None],
) -> None:
    """One file, or several with an index where they would be larger than `shard` bytes."""
    shards: list[list[Group]] = [[]]
    held = total = 0
    for group in every:
        size = sum(4 * weights[name].size for name, _ in group.ours)
        if shards[-1] and held + size > shard:
            shards.append([])
            held = 0
        shards[-1].append(group)
        held, total = held + size, total + size
    place: dict[str, str] = {}
    for number, some in enumerate(shards, 1):
        name = WHOLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        progress("writing weights", number - 1, len(shards))
        arrays: dict[str, Any] = {}
        for group in some:
            joined = group.join([weights[n] for n, _ in group.ours])
            arrays.update(zip((n for n, _ in group.theirs), joined, strict=True))
        tensors.write(folder / name, arrays, {"format": "pt"})
        place |= dict.fromkeys(arrays, name)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))})


def tokenizer_text(codec: Any) -> str:
    """tokenizer.json, where the tokenizer is one of the `tokenizers` library. Raises RunError where it is not."""
    text = str(codec.to_json())
    try:
        if isinstance(strict_json.loads(text).get("model"), dict):
            return text
    except (ValueError, AttributeError):
        pass
    raise RunError(
        "the model's tokenizer has no form that transformers reads",
        hint="train with a tokenizer of kind bpe, wordpiece or unigram, or one of a file",
        consequence="nothing could be written or read with the exported model",
    )


def framing(text: str, codec: Any) -> str:
    """A tokenizer.json that puts around a text what the model has around each, where it says nothing of that yet."""
    special, found = codec.specials, json.loads(text)
    if found.get("post_processor") is not None or not (special.before or special.after):
        return text
    spelled = {i: spelling for spelling, i in special.items()}
    around = [
        [{"SpecialToken": {"id": spelled[i], "type_id": 0}} for i in ids] for ids in (special.before, special.after)
    ]
    single = [*around[0], {"Sequence": {"id": "A", "type_id": 0}}, *around[1]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}, *around[1]]
    tokens = {
        spelled[i]: {"id": spelled[i], "ids": [i], "tokens": [spelled[i]]} for i in special.before + special.after
    }
    frame = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
    return json.dumps({**found, "post_processor": frame}, ensure_ascii=False)


def ids_of(codec: Any, config: Config, plan: Plan) -> dict[str, int]:
    """Ids of special tokens as config.json has them, but for those that a family's computation hangs on."""
    ids = {name: getattr(codec.specials, name) for name in ENDS}
    found = {f"{name}_token_id": token for name, token in ids.items()}
    found |= token_fields(plan.model, config.family, config.of, ids)
    return {name: token for name, token in found.items() if token is not None and name not in config.family.fixed}


def tokenizer_config(codec: Any, plan: Plan) -> dict[str, Any]:
    """tokenizer_config.json: which special tokens there are, and how long texts may be."""
    spelled = {i: spelling for spelling, i in codec.specials.items()}
    found: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": plan.model.encoder_context or plan.model.context,
        "clean_up_tokenization_spaces": False,
    }
    for name in MEANINGS:
        token = getattr(codec.specials, name)
        if token is not None and token in spelled:
            found[f"{name}_token"] = spelled[token]
    return found


def form_of(plan: Plan, pairs: bool) -> ChatTemplate:
    """What a prompt is put together by: the chat template, or the form of pairs, whose sources prompts are."""
    return PairForm(encoder=plan.model.encoder is not None) if pairs else plan.chat_template


def template_of(plan: Plan, codec: Any, pairs: bool = False) -> str:
    """The same as Jinja; '' where dialogues have no form in it."""
    return form_of(plan, pairs).jinja(codec.specials)
