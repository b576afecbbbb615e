"""A tokenizer out of metadata, as tokenizer.json and as the `tokenizer:` of a spec.

Three models are known: byte-level BPE (`gpt2`), SentencePiece's BPE, whose merges follow from scores (`llama`), and
SentencePiece's Unigram (`t5`). Ids are those of ggml-org/llama.cpp (src/llama-vocab.cpp).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from llmspec.core.problems import RunError, nearest
from llmspec.formats.gguf import charsmap, sentencepiece
from llmspec.formats.gguf.reading import Texts
from llmspec.formats.gguf.tokens import CONTROL, Piece, added, damaged_tokens, pieces_of
from llmspec.formats.hf.family import read_table

BEFORE = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
FILE = "tokenizer.json"
IDS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "pad": "padding_token_id",
    "unk": "unknown_token_id",
    "mask": "mask_token_id",
    "sep": "seperator_token_id",
}
"""Meaning of a special token -> what stands behind `tokenizer.ggml.` for its id."""
ENDS = ("eot_token_id", "eom_token_id")
"""The same of further tokens that end an answer."""
USUAL = {"llama": {"bos": 1, "eos": 2, "unk": 0}, "t5": {"eos": 1, "unk": 2, "pad": 0}, "gpt2": dict[str, int]()}
"""Ids that the format takes where it says none, by the tokenizer's model."""
END_OF_TEXT = frozenset(
    (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "</s>",
        "<eos>",
        "[EOS]",
        "<｜end▁of▁sentence｜>",
    )
)
"""Spellings of tokens that end an answer, whatever else the file says of them."""
UNDERSTOOD = {
    "model",
    "pre",
    "tokens",
    "token_type",
    "scores",
    "merges",
    "precompiled_charsmap",
    "add_bos_token",
    "add_eos_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
    *IDS.values(),
    *ENDS,
}
IDLE = {
    "token_type_count",
    "add_sep_token",
    "cls_token_id",
    "prefix_token_id",
    "suffix_token_id",
    "middle_token_id",
    *(f"fim_{name}_token_id" for name in ("pre", "suf", "mid", "pad", "rep", "sep")),
}
"""What only filling in, classifiers and pairs of texts ask for."""


class Tokenizing(NamedTuple):
    """A tokenizer as files of ours have it."""

    text: str
    """tokenizer.json; '' of one that lies in a folder."""
    settings: dict[str, Any]
    """`tokenizer:` of a spec beside that file."""
    begins: str = ""
    """The token that every text begins with; '' for none."""


@dataclass(frozen=True)
class Said:
    """What metadata say of a tokenizer, looked at."""

    model: str
    pieces: tuple[Piece, ...]
    values: Mapping[str, Any]
    """What stands behind `tokenizer.ggml.`."""
    named: Mapping[str, int] = field(default_factory=dict)
    """Meaning -> id."""
    ends: tuple[int, ...] = ()
    begins: bool = False
    """Whether a text begins with its bos token."""
    ends_with: bool = False
    """Whether a text that is read as a whole ends with its eos token."""

    @property
    def special(self) -> set[int]:
        """Ids that no text spells."""
        own = {i for i, piece in enumerate(self.pieces) if piece.kind == CONTROL or piece.text in END_OF_TEXT}
        return own | {i for meaning, i in self.named.items() if meaning != "unk"} | {*self.ends}

    @property
    def vocab(self) -> dict[str, int]:
        """Piece -> id."""
        return {piece.text: i for i, piece in enumerate(self.pieces)}


def tokenizing(metadata: Mapping[str, Any], file: str) -> Tokenizing:
    """The tokenizer of metadata; `file` is how messages call the file. Raises RunError for one that is not understood,
    is damaged, or lacks a part."""
    said = read(metadata, file)
    made = MODELS[said.model](said, file)
    if "merges" in made["model"]:
        made["model"]["merges"] = spelled(made["model"]["merges"])
    marks = added(said.pieces, said.special)
    text = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": marks, **made}
    text["post_processor"] = _frame(said)
    spellings = {meaning: said.pieces[i].text for meaning, i in said.named.items()}
    settings = {"kind": "huggingface", "file": FILE, **spellings, "ends": [said.pieces[i].text for i in said.ends]}
    begins = spellings["bos"] if said.begins else ""
    return Tokenizing(json.dumps(text, ensure_ascii=False), settings, begins)


def read(metadata: Mapping[str, Any], file: str) -> Said:
    """What metadata say of a tokenizer. Raises RunError."""
    values = {key.removeprefix(BEFORE): v for key, v in metadata.items() if key.startswith(BEFORE)}
    model = values.get("model")
    if not isinstance(model, str) or model not in MODELS:
        known = ", ".join(MODELS)
        what = "has no tokenizer" if model is None else f"has a tokenizer of the model {str(model)[:40]!r}"
        raise RunError(f"{file} {what}", hint=f"known are: {known}", consequence="no text could be read")
    if unknown := [name for name in values if name not in UNDERSTOOD | IDLE]:
        near = nearest(unknown[0], UNDERSTOOD | IDLE)
        raise RunError(
            f"{file}: `{BEFORE}{unknown[0][:80]}` is not understood",
            hint=f"did you mean `{near}`?" if near else "",
            consequence="text would perhaps become other ids",
        )
    pieces = pieces_of(values, file)
    named = {**USUAL[model], **{m: values[key] for m, key in IDS.items() if key in values}}
    named = {m: i for m, i in named.items() if _id(i, pieces, IDS[m], file, said=IDS[m] in values)}
    asked = [values[key] for key in ENDS if key in values and _id(values[key], pieces, key, file)]
    ends = [i for i, piece in enumerate(pieces) if piece.text in END_OF_TEXT or i in asked]
    usual = model == "llama" or kind_of(values, file).begins if model != "t5" else False
    begins = _truth(values, "add_bos_token", usual, file) and "bos" in named
    template = metadata.get(TEMPLATE, "")
    if "bos" in named and not begins and "bos_token" not in str(template):
        del named["bos"]  # it is the first of no text
    if model == "gpt2":
        named.pop("unk", None)  # bytes spell everything
    return Said(
        model,
        pieces,
        values,
        named,
        tuple(i for i in ends if i != named.get("eos")),
        begins,
        _truth(values, "add_eos_token", model == "t5", file) and "eos" in named,
    )


def _id(value: Any, pieces: tuple[Piece, ...], key: str, file: str, said: bool = True) -> bool:
    """Whether an id is one of the vocabulary's; raises RunError where the file says one that is not."""
    if type(value) is int and 0 <= value < len(pieces):
        return True
    if said:
        raise RunError(f"{file}: `{BEFORE}{key}` is {value!r}, and its vocabulary has ids 0 to {len(pieces) - 1:,}")
    return False


def _truth(values: Mapping[str, Any], name: str, usual: bool, file: str) -> bool:
    found = values.get(name, usual)
    if not isinstance(found, bool):
        raise RunError(f"{file}: `{BEFORE}{name}` is {found!r}, neither true nor false")
    return found


def _frame(said: Said) -> dict[str, Any] | None:
    """What stands around a text that is read as a whole."""
    around = {"bos": said.begins, "eos": said.ends_with}
    tokens = {meaning: said.pieces[said.named[meaning]].text for meaning, there in around.items() if there}
    if not tokens:
        return None

    def marked(sequence: str, kind: int) -> list[dict[str, Any]]:
        whole: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": kind}}]
        mark = {m: {"SpecialToken": {"id": token, "type_id": kind}} for m, token in tokens.items()}
        return [*([mark["bos"]] if "bos" in mark else []), *whole, *([mark["eos"]] if "eos" in mark else [])]

    ids = {t: {"id": t, "ids": [said.named[m]], "tokens": [t]} for m, t in tokens.items()}
    single, pair = marked("A", 0), [*marked("A", 0), *marked("B", 1)]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}


# -- byte-level BPE ----------------------------------------------------------------------------------------------------
class Kind(NamedTuple):
    """How byte-level BPE treats text before its merges."""

    patterns: tuple[str, ...]
    whole_words: bool = False
    """Whether a word that is a piece stays whole, whatever its merges would make of it."""
    begins: bool = False
    """Whether texts begin with the bos token where the file does not say."""


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by `tokenizer.ggml.pre`, out of the table."""
    table = read_table(Path(__file__).parent / "pretokenizers.yaml")
    patterns = {name: tuple(found) for name, found in table["patterns"].items()}
    return {
        name: Kind(patterns[row["pattern"]], row.get("whole_words", False), row.get("begins", False))
        for name, row in table["kinds"].items()
    }


def kind_of(values: Mapping[str, Any], file: str) -> Kind:
    """The kind that metadata name. Raises RunError for one that is not known."""
    name = values.get("pre", "default")
    if name not in kinds():
        near = nearest(name, kinds()) if isinstance(name, str) else None
        raise RunError(
            f"{file}: no rule is known for how `{BEFORE}pre: {str(name)[:40]}` cuts text",
            hint=(f"did you mean `{near}`? " if near else "") + f"known are: {', '.join(kinds())}",
            consequence="text would become other ids than those the model has learned",
        )
    return kinds()[name]


def _byte_level(said: Said, file: str) -> dict[str, Any]:
    merges = said.values.get("merges")
    if not isinstance(merges, Texts):
        raise RunError(
            f"{file} has a tokenizer without its merges: `{BEFORE}merges` is missing",
            hint="take a file that has them",
            consequence="text would fall apart into single bytes",
        )
    vocab, kind = said.vocab, kind_of(said.values, file)
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in kind.patterns
    ]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, bytes_alone]},
        "decoder": bytes_alone,
        "model": {
            **PLAIN_BPE,
            "ignore_merges": kind.whole_words,
            "vocab": vocab,
            "merges": [*_pairs(merges, vocab, file)],
        },
    }


def spelled(merges: list[list[str]]) -> list[Any]:
    """Merges as texts with a space between both parts, which the library reads in three quarters of the time that lists
    take it; as they are where a part has a space, or one would be taken for the heading of a file."""
    if any(" " in part for pair in merges for part in pair) or any(pair[0].startswith("#version") for pair in merges):
        return merges
    return [" ".join(pair) for pair in merges]


def _pairs(merges: Texts, vocab: Mapping[str, int], file: str) -> Iterator[list[str]]:
    """The merges; the first space behind the first character stands between both parts."""
    for number, line in enumerate(merges):
        at = line.find(" ", 1)
        left, right = line[:at], line[at + 1 :]
        if at < 0 or not right or left not in vocab or right not in vocab or left + right not in vocab:
            raise RunError(
                f"{file}: merge {number:,} of its tokenizer, {line[:40]!r}, is no pair of pieces that make a third",
                hint="download it again, whole",
            )
        yield [left, right]


PLAIN_BPE: Mapping[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


# -- SentencePiece -----------------------------------------------------------------------------------------------------
def _scored(said: Said, file: str) -> dict[str, Any]:
    unknown = None if (i := said.named.get("unk")) is None else said.pieces[i].text
    spaced = _truth(said.values, "add_space_prefix", True, file)
    try:
        return sentencepiece.by_scores(said.pieces, unknown, spaced, said.special)
    except sentencepiece.Unmergeable as error:
        raise damaged_tokens(file, str(error)) from None


def _unigram(said: Said, file: str) -> dict[str, Any]:
    return sentencepiece.unigram(
        said.pieces,
        said.named.get("unk"),
        charsmap.read(said.values, file),
        _truth(said.values, "add_space_prefix", True, file),
        _truth(said.values, "remove_extra_whitespaces", False, file),
    )


MODELS: Mapping[str, Callable[[Said, str], dict[str, Any]]] = {
    "gpt2": _byte_level,
    "llama": _scored,
    "t5": _unigram,
}
"""`tokenizer.ggml.model` -> what makes the middle of a tokenizer.json of it."""
