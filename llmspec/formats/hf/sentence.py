"""Folders of sentence-transformers: a model of transformers, and files that say how its states become one vector."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.problems import Problem, RunError
from llmspec.runs.files import read_json, read_table

MODULES, LENGTH, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
POOLINGS = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
"""Ways of pooling, as 1_Pooling/config.json names them -> as a head does."""
UNUSED = ("*pooler.*",)
"""Patterns of tensors that such a model has and does not use."""


class Sentence(NamedTuple):
    """What these files say."""

    head: dict[str, Any]
    """Settings of the head."""
    left: list[str]
    """What is not taken over, in words."""


def read(folder: Path) -> Sentence | None:
    """What a folder says of vectors; None where it is none of these. Raises RunError for what is not understood."""
    if not os.path.lexists(folder / MODULES):
        return None
    modules = read_json(folder / MODULES)
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise RunError(f"{folder / MODULES} is damaged: it is no list of modules")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise RunError(
            f"{folder / MODULES} has the modules {', '.join(kinds)[:200]}",
            hint="understood are a Transformer, a Pooling, and perhaps a Normalize, in this order",
            consequence="the vectors would be others",
        )
    if modules[0].get("path"):
        raise RunError(
            f"the model lies in {modules[0]['path'][:80]}, and not beside {MODULES}", hint="open that folder itself"
        )
    head = {"kind": "embedding", "pooling": _pooling(folder, modules[1]), "normalised": len(kinds) > 2}
    config = read_table(folder / LENGTH)
    if config.get("do_lower_case"):
        raise RunError(
            f"{folder / LENGTH}: `do_lower_case` makes small letters of texts before the tokenizer reads them",
            hint="set it to false where the tokenizer does so itself",
            consequence="texts would be read as others",
        )
    length = config.get("max_seq_length")
    if isinstance(length, int) and length > 0:
        head["max_tokens"] = length
    prompt = read_table(folder / PROMPTS).get("default_prompt_name")
    left = (
        [f"{PROMPTS} names a prompt that texts begin with by default ({prompt}): write it yourself"] if prompt else []
    )
    return Sentence(head, left)


def _pooling(folder: Path, module: dict[str, Any]) -> str:
    """Raises RunError for a way of pooling that is not known, and for a path that leaves the folder."""
    path = module.get("path")
    if not isinstance(path, str) or not path or set(path) & set("/\\\0") or path in (".", ".."):
        raise RunError(f"{folder / MODULES} names the folder {str(path)[:80]!r}, which is none beside it")
    config = read_table(folder / path / "config.json")
    if isinstance(named := config.get("pooling_mode"), str):
        asked = [named if named in POOLINGS.values() else {"lasttoken": "last"}.get(named, named)]
    else:
        modes = [
            key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on
        ]
        asked = [POOLINGS.get(mode, mode) for mode in modes]
    if len(asked) == 1 and asked[0] in POOLINGS.values():
        return asked[0]
    raise RunError(
        Problem(
            f"{folder / path / 'config.json'} pools by {', '.join(asked)[:80] or 'nothing'}",
            hint=f"known are: {', '.join(POOLINGS.values())}, one of them",
            consequence="the vectors would be others",
        )
    )
