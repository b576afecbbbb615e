"""A tokenizer as metadata of a GGUF file: the reverse of `tokenizers`, for what the format can say.

Byte-level BPE is `gpt2`: its merges, and the name of the rule that cuts text before them. SentencePiece's BPE is
`llama`: the order of its merges as scores. Other tokenizers have no form there that gives the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from llmspec.core import strict_json
from llmspec.core.problems import LlmspecError
from llmspec.formats.gguf import sentencepiece
from llmspec.formats.gguf.tokenizers import BEFORE, IDS, TEMPLATE, kinds
from llmspec.formats.gguf.tokens import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Piece
from llmspec.formats.gguf.writing import Array, Value
from llmspec.parts.tokenizers import Codec
from llmspec.parts.tokenizers.learner import LONGEST, WORDS
from llmspec.parts.tokenizers.library import alphabet
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

TURN_END, MORE_ENDS = "eot_token_id", "eom_token_id"
"""What stands behind `tokenizer.ggml.` for the ids of tokens that end an answer beside eos."""
GPT2 = "gpt-2"
DIGIT = r"\p{N}"


@dataclass
class Vocabulary:
    """What a file says of a tokenizer, and what it cannot say of it."""

    metadata: dict[str, Value]
    notices: list[str] = field(default_factory=list)
    """Texts that become other ids elsewhere, in sentences."""


def vocabulary(codec: Codec, rows: int, template: str, begins: bool) -> Vocabulary:
    """The metadata of a tokenizer.

    Args:
        codec: the tokenizer.
        rows: ids of the model, of which the tokenizer may have fewer.
        template: the chat template in Jinja; '' for none.
        begins: whether a prompt begins with the bos token.

    Raises LlmspecError where the format has no form for such a tokenizer.
    """
    file = _file(codec)
    made = _byte_level(file) if _is_byte_level(file) else _scored(file)
    pieces = _pieces(codec.specials, file, rows, made.scores)
    found: dict[str, Value] = {
        "model": made.model,
        "tokens": Array("text", [piece.text for piece in pieces]),
        "token_type": Array("i32", [piece.kind for piece in pieces]),
    }
    if made.scores is not None:
        _same_merges(file, pieces, codec.specials)
        found["scores"] = Array("f32", [piece.score for piece in pieces])
    found |= made.more
    found |= _ids(codec.specials, made.notices)
    found["add_bos_token"] = begins and codec.specials.bos is not None
    found["add_eos_token"] = False
    metadata = {BEFORE + key: value for key, value in found.items()}
    return Vocabulary(metadata | ({TEMPLATE: template} if template else {}), made.notices)


@dataclass
class _Made:
    """What a kind of tokenizer says beside its pieces."""

    model: str
    more: dict[str, Value]
    scores: Mapping[str, float] | None
    """Scores of pieces by their spelling, where the kind has any."""
    notices: list[str]


def _file(codec: Codec) -> dict[str, Any]:
    """tokenizer.json of the `tokenizers` library. Bytes as tokens are byte-level BPE that has learned no merges.

    Raises LlmspecError where there is none."""
    saved = strict_json.loads(codec.to_json())
    if isinstance(saved, dict) and saved.get("kind") == "byte":
        first = len(saved["specials"])
        letters = {letter: first + byte for byte, letter in enumerate(alphabet())}
        cut = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        model = {"type": "BPE", "vocab": letters, "merges": []}
        return {"normalizer": None, "pre_tokenizer": cut, "added_tokens": [], "model": model}
    if isinstance(saved, dict) and isinstance(saved.get("model"), dict):
        return saved
    raise _unsaid("it knows whole characters, of which those that it has not seen are one token")


def _unsaid(why: str) -> LlmspecError:
    return LlmspecError(
        f"the model's tokenizer has no form in GGUF: {why}",
        hint="train with a tokenizer of kind bpe or byte, or export with --to hf",
        consequence="llama.cpp would read other ids than the model has learned",
    )


# -- byte-level BPE ----------------------------------------------------------------------------------------------------
def _parts(part: Any, inner: str) -> list[dict[str, Any]]:
    """The pieces of a normaliser or pre-tokenizer, in order."""
    if not part:
        return []
    return [piece for one in part[inner] for piece in _parts(one, inner)] if part["type"] == "Sequence" else [part]


def _is_byte_level(file: Mapping[str, Any]) -> bool:
    cutting = _parts(file["pre_tokenizer"], "pretokenizers")
    return file["model"]["type"] == "BPE" and any(part["type"] == "ByteLevel" for part in cutting)


def _byte_level(file: Mapping[str, Any]) -> _Made:
    model, notices = file["model"], list[str]()
    for part in _parts(file["normalizer"], "normalizers"):
        if part["type"] != "NFC":
            raise _unsaid(f"it changes text by {part['type']} before it is cut")
        notices.append("llama.cpp does not compose letters and their marks (NFC) as this tokenizer does")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _unsaid("its pieces carry a mark of where in a word they stand")
    patterns, whole = tuple(_patterns(file, notices)), bool(model.get("ignore_merges"))
    name = next((n for n, kind in kinds().items() if (kind.patterns, kind.whole_words) == (patterns, whole)), None)
    if name is None:
        raise _unsaid(f"llama.cpp has no rule that cuts text as it does: {' then '.join(patterns)[:120]}")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return _Made("gpt2", {"pre": name, "merges": Array("text", merges)}, None, notices)


def _patterns(file: Mapping[str, Any], notices: list[str]) -> Iterator[str]:
    """The regular expressions by which a tokenizer.json cuts text, one after another."""
    (gpt2,) = kinds()[GPT2].patterns
    for part in _parts(file["pre_tokenizer"], "pretokenizers"):
        kind, isolated = part["type"], str(part.get("behavior", "Isolated")).lower() == "isolated"
        if part.get("add_prefix_space"):
            raise _unsaid("it puts a space before every text")
        if kind == "Split" and isolated and not part.get("invert"):
            pattern = part["pattern"].get("Regex")
            if pattern is None:
                raise _unsaid("it cuts at a fixed text")
            if pattern == WORDS:
                notices.append(
                    f"a run of more than {LONGEST} letters, digits, marks or spaces, which is cut here, is one word in "
                    "llama.cpp"
                )
                pattern = gpt2
            yield pattern
        elif kind == "Digits" and part.get("individual_digits"):
            yield DIGIT
        elif kind == "ByteLevel":
            if part.get("use_regex", True):
                yield gpt2
        else:
            raise _unsaid(f"it cuts text by {kind}")


# -- SentencePiece -----------------------------------------------------------------------------------------------------
def _scored(file: Mapping[str, Any]) -> _Made:
    """BPE over characters, whose spaces are `sentencepiece.SPACE`; a piece's score is the less the later it is made."""
    model = file["model"]
    changes = _parts(file["normalizer"], "normalizers")
    cutting = _parts(file["pre_tokenizer"], "pretokenizers")
    spaces = [p for p in changes if p["type"] == "Replace" and p.get("content") == sentencepiece.SPACE]
    spaces += [p for p in cutting if p["type"] == "Metaspace"]
    other = [p["type"] for p in changes if p["type"] not in ("Replace", "Prepend")]
    other += [p["type"] for p in cutting if p["type"] not in ("Metaspace", "Split")]
    if model["type"] != "BPE":
        raise _unsaid(f"llama.cpp reads no {model['type']} model over such words")
    if not spaces or other:
        raise _unsaid(f"it cuts or changes text by {', '.join(other) or 'no rule that llama.cpp has'}")
    prefixed = any(p["type"] == "Prepend" for p in changes)
    prefixed |= any(p.get("prepend_scheme", "always") != "never" for p in cutting if p["type"] == "Metaspace")
    scores: dict[str, float] = {}
    for pair in model["merges"]:
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        scores.setdefault(left + right, -float(len(scores) + 1))
    return _Made("llama", {"add_space_prefix": prefixed}, scores, [])


def _same_merges(file: Mapping[str, Any], pieces: Sequence[Piece], specials: SpecialTokens) -> None:
    """Raises LlmspecError where scores make other merges than the tokenizer has: a score belongs to a piece, so that
    all pairs that make it have one rank, and every pair of pieces that make a third is merged."""
    own = [pair.split(" ", 1) if isinstance(pair, str) else list(pair) for pair in file["model"]["merges"]]
    made_of = [text for text, _ in groupby("".join(pair) for pair in own)]
    if len({*made_of}) < len(made_of):
        raise _unsaid("pairs that make the same piece are of different ranks among its merges")
    reserved = {i for i in specials.values() if i != specials.unk}
    try:
        made = sentencepiece.merges(pieces, reserved)
    except sentencepiece.Unmergeable as error:
        raise _unsaid(str(error)) from None
    if sorted(made) != sorted(own):
        raise _unsaid(f"its merges ({len(own):,}) are not all that its pieces allow ({len(made):,})")


# -- pieces ------------------------------------------------------------------------------------------------------------
def _pieces(
    specials: SpecialTokens, file: Mapping[str, Any], rows: int, scores: Mapping[str, float] | None
) -> tuple[Piece, ...]:
    """A piece for every id of the model; ids that stand for nothing are unused."""
    texts = {i: text for text, i in file["model"]["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in file["added_tokens"]}
    texts |= {i: text for text, i in specials.items()}
    kinds_of = {token["id"]: CONTROL if token.get("special") else USER_DEFINED for token in file["added_tokens"]}
    kinds_of |= dict.fromkeys(specials.values(), CONTROL)
    if specials.unk is not None:
        kinds_of[specials.unk] = UNKNOWN
    bytes_too = scores is not None and bool(file["model"].get("byte_fallback"))
    found = []
    for i in range(rows):
        text = texts.get(i)
        if text is None:
            found.append(Piece(f"[PAD{i}]", UNUSED, 0.0))
            continue
        byte = bytes_too and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        kind = kinds_of.get(i, BYTE if byte else NORMAL)
        found.append(Piece(text, kind, (scores or {}).get(text, 0.0)))
    return tuple(found)


def _ids(specials: SpecialTokens, notices: list[str]) -> dict[str, Value]:
    """Ids of the tokens that have a meaning."""
    found: dict[str, Value] = {
        key: token for meaning, key in IDS.items() if (token := getattr(specials, meaning)) is not None
    }
    ends = [i for i in dict.fromkeys((specials.turn_end, *specials.ends)) if i not in (None, specials.eos)]
    found |= dict(zip((TURN_END, MORE_ENDS), (i for i in ends if i is not None), strict=False))
    if len(ends) > 2:
        named = {i: text for text, i in specials.items()}
        lost = ", ".join(json.dumps(named.get(i, str(i))) for i in ends[2:] if i is not None)
        notices.append(f"llama.cpp goes on after {lost}, where llmspec ends an answer, unless it knows them by name")
    return found
