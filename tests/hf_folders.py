"""Hugging Face folders made for tests: tokenizers and weights of nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_tokenizer(folder: Path, vocab: int, template: str | None = None, ended: bool = False) -> None:
    """A tokenizer.json of bytes, special tokens and words that nobody needs, `vocab` ids in all (262 or more); with
    `ended` it puts </s> behind a text, as T5's."""
    from llmspec.parts.tokenizers.library import alphabet

    specials = ["<s>", "</s>", "<pad>", "<user>", "<assistant>", "<end>"]
    known = {token: i for i, token in enumerate([*specials, *alphabet()])}
    for i in range(vocab - len(known)):
        known[f"Ġword{i}"] = len(known)
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, token in enumerate(specials)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        }
        if ended
        else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": known,
            "merges": [],
        },
    }
    write(folder / "tokenizer.json", made)
    about = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    about |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    write(folder / "tokenizer_config.json", {**about, **({"chat_template": template} if template else {})})


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
