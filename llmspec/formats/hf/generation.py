"""generation_config.json and chat templates of a Hugging Face folder, as sections of a spec and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.runs.files import read_table

FILE, TEMPLATE, TOKENIZER_CONFIG = "generation_config.json", "chat_template.jinja", "tokenizer_config.json"
KEYS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
"""Field of generation_config.json -> key of `decoding:`."""
NOT_SAMPLING = {
    "transformers_version",
    "_from_model_config",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
}
"""Fields that say nothing of how tokens are chosen; what ends a text is the tokenizer's to say."""


class Found(NamedTuple):
    """What a generation_config.json says."""

    settings: dict[str, Any]
    left: list[str]
    """Fields that are not taken over."""


def decoding(folder: Path) -> Found:
    """`decoding:` of a folder, and what of its file is not taken over. Raises RunError where it is damaged."""
    config = read_table(folder / FILE)
    settings: dict[str, Any] = {}
    for name, key in KEYS.items():
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            settings[key] = int(value) if key in ("top_k", "max_tokens") else float(value)
    if not config.get("do_sample", False):  # transformers' own default: the most probable token
        settings = {k: v for k, v in settings.items() if k in ("repetition_penalty", "max_tokens")}
        settings["temperature"] = 0.0
    left = [k for k, v in config.items() if k not in {*KEYS, *NOT_SAMPLING, "do_sample"} and v is not None]
    return Found(settings, sorted(left))


def written(settings: Mapping[str, Any], tokens: Mapping[str, int | None]) -> dict[str, Any]:
    """generation_config.json of decoding settings and the ids of special tokens."""
    greedy = settings.get("temperature") == 0
    found: dict[str, Any] = {"do_sample": not greedy}
    for name, key in KEYS.items():
        value = settings.get(key)
        if value is not None and not (greedy and key not in ("repetition_penalty", "max_tokens")):
            found[name] = value
    found |= {f"{name}_token_id": token for name, token in tokens.items() if token is not None}
    return found


def has_template(folder: Path) -> bool:
    """Whether a folder says how dialogues are written."""
    if os.path.lexists(folder / TEMPLATE):
        return True
    return isinstance(read_table(folder / TOKENIZER_CONFIG).get("chat_template"), str)


def template_settings(folder: Path) -> dict[str, Any]:
    """`chat_template:` of a folder; nothing where it has none."""
    if os.path.lexists(folder / TEMPLATE):
        return {"chat_template": {"kind": "jinja", "file": TEMPLATE}}
    found = read_table(folder / TOKENIZER_CONFIG).get("chat_template")
    return {"chat_template": {"kind": "jinja", "template": found}} if isinstance(found, str) else {}
