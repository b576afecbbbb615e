"""Tokenizers out of GGUF files beside llama.cpp, which reads the same files: ids of texts of every kind."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
llama_cpp = pytest.importorskip("llama_cpp")

import gguf_files  # noqa: E402
import numpy as np  # noqa: E402
import tiny  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402

from llmspec.formats.gguf.importing import GGUFFile  # noqa: E402
from llmspec.formats.gguf.tables import tables  # noqa: E402
from llmspec.formats.gguf.tokenizers import kinds  # noqa: E402
from llmspec.parts.tokenizers.library import alphabet  # noqa: E402

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
LEARNED = [
    (tiny.ROOT / "README.md").read_text("utf-8"),
    (tiny.ROOT / "docs" / "architecture.md").read_text("utf-8"),
    "It's 1234567 or 12.5 %, isn't it? I'LL go; we've SEEN  naïve façades.\n\n\tfor i in range(9):\n    x[i] += 1\n",
    "日本語のテキスト 한국어 привет мир हिन्दी عربى 😀🎉\r\n",
]
WORDS = st.sampled_from(
    ["it's", "I'LL", "12345", "3.14", "word", "Wörter", "日本語", "😀", "\t", "\r\n", "\n\n", "  ", "a_b", "(x)",
     "e\u0301", "ﬁ", "\u00a0", "llama", "the", "“x”", "[tool]", "<s>", "ǅ", "½", "٣"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(WORDS, st.just(" "), st.text(max_size=6)), max_size=14).map("".join)
FIXED = ["", " ", "  ", "x", " x", "x ", "\n", " \n x", "1 22 333 4444 55555", "a" * 40, "don't DON'T I'Ll"]


@cache
def byte_level() -> dict[str, Any]:
    """Pieces and merges learned from a little text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet(), show_progress=False)
    made.train_from_iterator(LEARNED, trainer)
    model = json.loads(made.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    whole = ["123", "Ġworld's"]  # words that no merge makes
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["<s>", "</s>", "[tool]", *whole, *pieces],
        "tokenizer.ggml.token_type": [CONTROL, CONTROL, USER_DEFINED, NORMAL, NORMAL] + [NORMAL] * len(pieces),
        "tokenizer.ggml.merges": pairs,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


@cache
def by_scores() -> dict[str, Any]:
    """As SentencePiece's BPE has them: scores fall with the rank of the merge that makes a piece."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    made.train_from_iterator(LEARNED, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    model = json.loads(made.to_str())["model"]
    merged = ["".join(pair) if not isinstance(pair, str) else pair.replace(" ", "") for pair in model["merges"]]
    letters = [piece for piece in model["vocab"] if len(piece) == 1]
    merged = [piece for piece in dict.fromkeys(merged) if piece not in letters]
    start = ["<unk>", "<s>", "</s>", "[tool]"]
    codes = [f"<0x{i:02X}>" for i in range(256)]
    pieces = [*start, *codes, *merged, *letters]
    scores = [0.0] * (len(start) + 256) + [-float(i) for i in range(len(merged))] + [-1e6] * len(letters)
    types = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED] + [BYTE] * 256 + [NORMAL] * (len(merged) + len(letters))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@cache
def unigram() -> dict[str, Any]:
    """As SentencePiece's Unigram has them."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    made.train_from_iterator(
        LEARNED[:3], trainers.UnigramTrainer(vocab_size=500, unk_token="<unk>", show_progress=False)
    )
    learned = [(p, s) for p, s in json.loads(made.to_str())["model"]["vocab"] if p != "<unk>"]
    start = ["<pad>", "</s>", "<unk>", "[tool]"]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*start, *(p for p, _ in learned)],
        "tokenizer.ggml.scores": [0.0] * 4 + [float(np.float32(s)) for _, s in learned],
        "tokenizer.ggml.token_type": [CONTROL, CONTROL, UNKNOWN, USER_DEFINED] + [NORMAL] * len(learned),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 2,
    }


CASES: dict[str, dict[str, Any]] = {
    **{f"bytes, {kind}": {**byte_level(), "tokenizer.ggml.pre": kind} for kind in kinds()},
    "scores": by_scores(),
    "scores, without a space before": {**by_scores(), "tokenizer.ggml.add_space_prefix": False},
    "unigram": {**unigram(), "tokenizer.ggml.add_space_prefix": True},
    "unigram, without a space before": {**unigram(), "tokenizer.ggml.add_space_prefix": False},
    "unigram, squeezed": {
        **unigram(),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    },
}
OPENED: dict[str, tuple[Any, Any]] = {}


def opened(name: str, folder: Path) -> tuple[Any, Any]:
    """(llama.cpp's vocabulary, our codec) of a case."""
    if name not in OPENED:
        table = tables()["llama"]
        own = {k: v for k, v in gguf_files.metadata(table).items() if not k.startswith("tokenizer.")}
        fields, tensors = gguf_files.small_model(table, **CASES[name])
        fields = {**own, **CASES[name]}
        path = gguf_files.write(folder / f"{name}.gguf".replace(" ", "-"), fields, tensors)
        file = GGUFFile(path)
        theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        OPENED[name] = theirs, file.tokenizer(file.plan())
    return OPENED[name]


def same(name: str, folder: Path, text: str) -> None:
    theirs, codec = opened(name, folder)
    wanted = theirs.tokenize(text.encode(), add_bos=False, special=False)
    assert codec.encode([text])[0] == wanted, (text, wanted)


@pytest.mark.parametrize("name", CASES)
def test_ids_of_texts_are_those_of_llama_cpp(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gguf")
    for text in (*FIXED, *LEARNED):
        if text.strip(" ") or name != "unigram":
            same(name, folder, text)

    @given(TEXTS)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def drawn(text: str) -> None:
        # Where spaces are put before texts and are kept, llama.cpp puts none before a text of spaces alone.
        if "\0" not in text and (text.strip(" ") or name != "unigram"):
            same(name, folder, text)

    drawn()
