"""Files of tokenizers that others trained: tokenizer.json, GPT-2's vocab.json and merges.txt, WordPiece's vocab.txt;
and what the files beside them say of special tokens."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core import strict_json
from llmspec.core.disk import explained
from llmspec.core.problems import DataError, Problem
from llmspec.core.regular import read_regular
from llmspec.parts.tokenizers.special_tokens import NAMED

END = "<|endoftext|>"
"""The special token of GPT-2, the last of its vocabulary."""
LARGEST = 256 << 20
"""Bytes of a file, at most."""
BESIDE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
)
"""Files beside a tokenizer that say something of its special tokens, the first word first."""


class Found(NamedTuple):
    """A tokenizer as its files have it."""

    text: str
    """tokenizer.json: the file as it is, or made of the others."""
    sha256: str
    """Of that text (hex)."""
    named: dict[str, tuple[str, str]]
    """Meaning of a special token -> (its spelling, the file that says so)."""
    ends: tuple[str, ...]
    """Spellings of further tokens that end an answer."""


def read(path: Path, merges: Path | None = None, lowercase: bool | None = None, noted: str | None = None) -> Found:
    """Raises DataError where a file cannot be read or is of no format that is known here. A tokenizer.json whose sha256
    (hex) is `noted` was looked at when that was done: going through a large one again takes hundreds of megabytes."""
    beside = {name: _json(path.parent / name) for name in BESIDE if (path.parent / name).is_file()}
    config = beside.get("tokenizer_config.json", {})
    added = _added(config, beside.get("added_tokens.json", {}))
    named = _named(beside)
    if path.suffix == ".txt":
        case = config.get("do_lower_case", True) if lowercase is None else lowercase
        text, usual = _wordpiece(path, bool(case), config, added)
        sha256 = hashed(text)
        named = {meaning: (spelling, path.name) for meaning, spelling in usual.items()} | named
    elif merges is not None:
        text = _byte_pairs(path, merges, added)
        sha256 = hashed(text)
        if not beside and END in (known := _json(path)) and known[END] == max(known.values()):
            named = dict.fromkeys(("bos", "eos"), (END, path.name))
    else:
        text, sha256 = _hashed_text(path)
        if sha256 != noted and not _is_tokenizer(text, path):
            raise DataError(
                Problem(
                    f"{path} is no tokenizer.json: it has no `model`",
                    ("file",),
                    "a vocab.json needs the file of its merges beside it: `merges: merges.txt`",
                )
            )
    named |= {k: v for k, v in _numbered(beside, text).items() if k not in named}
    end = named.get("eos", ("",))[0]
    return Found(text, sha256, named, tuple(spelling for spelling in _ends(beside, text) if spelling != end))


def hashed(text: str) -> str:
    """sha256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_text(path: Path) -> str:
    """A file's text, without newlines translated. Raises DataError."""
    return _hashed_text(path)[0]


def _hashed_text(path: Path) -> tuple[str, str]:
    """(a file's text, its sha256 in hex). Raises DataError."""
    try:
        content = read_regular(path, LARGEST)
        return content.decode("utf-8"), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise DataError(explained(error, path)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = strict_json.loads(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read: it holds no map")
    return found


@functools.lru_cache(maxsize=1)
def _has_model(text: str) -> bool:
    """Asked several times while a model is opened, of megabytes."""
    return isinstance(strict_json.loads(text).get("model"), dict)


def _is_tokenizer(text: str, path: Path) -> bool:
    try:
        return _has_model(text)
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "give a whole tokenizer.json") from None


# -- what the files beside say ---------------------------------------------------------------------------------------
def _spelling(value: Any) -> str | None:
    """A special token as these files write it: a text, or a map with `content`."""
    found = value.get("content") if isinstance(value, Mapping) else value
    return found if isinstance(found, str) and found else None


def _named(beside: Mapping[str, dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Meaning -> (spelling, file), of the files that name tokens."""
    found: dict[str, tuple[str, str]] = {}
    for meaning in NAMED:
        for name in BESIDE[:2]:
            spelling = _spelling(beside.get(name, {}).get(f"{meaning}_token"))
            if spelling and meaning not in found:
                found[meaning] = (spelling, name)
    return found


def _numbered(beside: Mapping[str, dict[str, Any]], text: str) -> dict[str, tuple[str, str]]:
    """The same of the files that have numbers of tokens."""
    found: dict[str, tuple[str, str]] = {}
    numbered = [
        (meaning, name, value[0] if isinstance(value, list) and value else value)
        for meaning in ("bos", "eos", "pad")
        for name in BESIDE[3:]
        if (value := beside.get(name, {}).get(f"{meaning}_token_id")) is not None
    ]
    if numbered:
        spellings = _spellings(text)
        for meaning, name, token in numbered:
            if isinstance(token, int) and token in spellings and meaning not in found:
                found[meaning] = (spellings[token], name)
    return found


def _ends(beside: Mapping[str, dict[str, Any]], text: str) -> list[str]:
    """Spellings of all tokens that end an answer: generation_config.json counts, else config.json."""
    value = next((v for name in BESIDE[3:] if (v := beside.get(name, {}).get("eos_token_id")) is not None), None)
    if not isinstance(value, list):
        return []
    spellings = _spellings(text)
    return [spellings[token] for token in value if isinstance(token, int) and token in spellings]


def _spellings(text: str) -> dict[int, str]:
    """id -> token of a tokenizer.json."""
    file = json.loads(text)
    vocab = file["model"].get("vocab", {})
    pairs = enumerate(piece[0] for piece in vocab) if isinstance(vocab, list) else ((i, t) for t, i in vocab.items())
    return {**dict(pairs), **{token["id"]: token["content"] for token in file.get("added_tokens", ())}}


def _added(config: Mapping[str, Any], others: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """id -> token that is added to a vocabulary, as tokenizer.json writes it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    found = {i: {**plain, "special": False, "content": t} for t, i in others.items() if isinstance(i, int)}
    decoder = config.get("added_tokens_decoder")
    for number, token in (decoder if isinstance(decoder, dict) else {}).items():
        if number.isdecimal() and isinstance(token, dict) and _spelling(token):
            flags = {key: bool(token.get(key, plain[key])) for key in plain}
            found[int(number)] = {"content": token["content"], **flags}
    return found


# -- tokenizer.json of other files -----------------------------------------------------------------------------------
def _wordpiece(
    path: Path, lowercase: bool, config: Mapping[str, Any], added: dict[int, dict[str, Any]]
) -> tuple[str, dict[str, str]]:
    """Of a vocab.txt: a piece a line, its number is its id (google-research/bert, tokenization.py); and its special
    tokens by what they mean."""
    lines = read_text(path).split("\n")
    pieces = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    if len(vocab) < len(pieces):
        raise DataError(f"{path} holds a piece twice", "give the vocabulary as it was published")
    special = {
        meaning: _spelling(config.get(f"{meaning}_token")) or f"[{meaning.upper()}]"
        for meaning in ("unk", "sep", "pad", "cls", "mask")
    }
    if special["unk"] not in vocab:
        raise DataError(f"{path} has no `{special['unk']}`", "it is no vocabulary of WordPiece: a piece a line")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = {vocab[token]: {"content": token, **flags} for token in special.values() if token in vocab} | added
    accents = config.get("strip_accents")
    file = {
        "added_tokens": _listed(tokens),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(config.get("tokenize_chinese_chars", True)),
            "strip_accents": accents if isinstance(accents, bool) else None,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _bert_frame(special, vocab),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": special["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return _written(file), {meaning: token for meaning, token in special.items() if token in vocab}


def _bert_frame(special: Mapping[str, str], vocab: Mapping[str, int]) -> dict[str, Any] | None:
    """`[CLS] text [SEP]`, where the vocabulary has both."""
    cls, sep = special["cls"], special["sep"]
    if cls not in vocab or sep not in vocab:
        return None
    return {
        "type": "TemplateProcessing",
        "single": [_mark(cls, 0), {"Sequence": {"id": "A", "type_id": 0}}, _mark(sep, 0)],
        "pair": [
            _mark(cls, 0),
            {"Sequence": {"id": "A", "type_id": 0}},
            _mark(sep, 0),
            {"Sequence": {"id": "B", "type_id": 1}},
            _mark(sep, 1),
        ],
        "special_tokens": {token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in (cls, sep)},
    }


def _mark(token: str, kind: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": kind}}


def _byte_pairs(path: Path, merges: Path, added: dict[int, dict[str, Any]]) -> str:
    """Of GPT-2's vocab.json (token -> id) and merges.txt, a pair a line (openai/gpt-2, encoder.py)."""
    vocab = _json(path)
    if not vocab or not all(isinstance(i, int) and i >= 0 for i in vocab.values()):
        raise DataError(f"{path} is no vocabulary: it does not map tokens to numbers")
    lines = read_text(merges).split("\n")
    pairs = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    if wrong := next((line for line in pairs if line.count(" ") != 1), None):
        raise DataError(f"{merges} holds a line that is no pair of tokens: {wrong[:80]!r}")
    if not added and END in vocab:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added = {vocab[END]: {"content": END, **flags}}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [line.split(" ") for line in pairs],
    }
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _written(
        {
            "added_tokens": _listed(added),
            "normalizer": None,
            "pre_tokenizer": bytes_alone,
            "post_processor": None,
            "decoder": bytes_alone,
            "model": model,
        }
    )


def _listed(tokens: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": i, **tokens[i]} for i in sorted(tokens)]


def _written(file: dict[str, Any]) -> str:
    return json.dumps({"version": "1.0", "truncation": None, "padding": None, **file}, ensure_ascii=False)


def located(base: str, name: str) -> Path:
    """Where a file of a spec lies."""
    return Path(os.path.join(base, os.path.expanduser(name)))
