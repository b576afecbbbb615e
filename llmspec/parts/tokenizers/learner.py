"""Learning the pieces of words that a tokenizer knows: also a program of its own, which can be stopped at any moment.

The library's trainer cannot be interrupted and keeps the memory that it took. As a program it reads its text from
standard input, as `spool` writes it, and writes tokenizer.json to standard output. It imports nothing of llmspec.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log
from typing import Any, BinaryIO, Literal

Algorithm = Literal["bpe", "wordpiece", "unigram"]
LONGEST = 128
"""Characters of a word, at most: longer runs of letters, of digits, of marks or of white space are cut.

Learning takes the square of a word's length, and text without spaces (DNA, base64, Chinese) is one long word. In
ordinary text no word is that long, so that its tokens are those of GPT-2's pattern.
"""
WORDS = (
    rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}{{1,{LONGEST}}}| ?\p{{N}}{{1,{LONGEST}}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]{{1,{LONGEST}}}|\s{{1,{LONGEST}}}(?!\S)|\s{{1,{LONGEST}}}"
)
"""GPT-2's pattern (openai/gpt-2, encoder.py) with runs of bounded length."""
DISTINCT = 6_000_000
"""Bytes of different words that are learned from, at most: each takes some 65 (Chinese) to 90 (DNA) bytes of memory."""
UNKNOWN = "<|unk|>"
"""What WordPiece makes of words with letters that it has not learned."""
LETTERS = 1000
"""Letters that WordPiece knows, at most, the most frequent ones: each takes two ids, as in google-research/bert."""
PROBED = 500_000
"""Characters by which it is estimated how many different words a text has."""


def words() -> Any:
    """The pre-tokenizer that splits text into words."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(WORDS), "isolated")


def cutting() -> Any:
    """What cuts text into the pieces that are learned from, as bytes."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([words(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def empty(algorithm: Algorithm, options: Mapping[str, Any]) -> Any:
    """A tokenizer of the `tokenizers` library that has learned nothing yet."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if algorithm == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=LONGEST))
        lowercase = options["lowercase"]
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
        bounded = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{LONGEST}}}"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), bounded])
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        return tokenizer
    tokenizer = Tokenizer(models.BPE() if algorithm == "bpe" else models.Unigram())
    tokenizer.pre_tokenizer = cutting()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def learn(
    texts: Iterable[str], vocab: int, specials: Sequence[str], algorithm: Algorithm, options: Mapping[str, Any]
) -> Any:
    """A tokenizer of the `tokenizers` library with up to `vocab` ids."""
    from tokenizers import pre_tokenizers, trainers

    tokenizer = empty(algorithm, options)
    # A pair that was seen once teaches nothing about text that was not.
    settings: dict[str, Any] = {"vocab_size": vocab, "special_tokens": list(specials), "show_progress": False}
    letters = pre_tokenizers.ByteLevel.alphabet()
    if algorithm == "wordpiece":
        return _wordpiece(tokenizer, list(texts), settings)
    assert algorithm == "bpe"
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(min_frequency=2, initial_alphabet=letters, **settings))
    return tokenizer


def _wordpiece(tokenizer: Any, texts: Sequence[str], settings: dict[str, Any]) -> Any:
    """The same for WordPiece, whose trainer numbers letters within words as they come: in an order that changes from
    process to process, unless they have their ids before."""
    from tokenizers import Tokenizer, trainers

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    specials = settings["special_tokens"]
    found = sorted((c for c in counts if not c.isspace() and counts[c] > 1), key=lambda c: (-counts[c], c))
    letters = sorted(found[:LETTERS])
    within = [f"##{letter}" for letter in letters]
    trainer = trainers.WordPieceTrainer(
        min_frequency=2,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        **{**settings, "special_tokens": [*specials, *within]},
    )
    tokenizer.train_from_iterator(texts, trainer)
    file = json.loads(tokenizer.to_str())
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(file))


# -- texts on disk -------------------------------------------------------------------------------------------------
def spool(texts: Iterable[str], file: BinaryIO) -> None:
    """Write texts, each after its length in bytes."""
    for text in texts:
        raw = text.encode()
        file.write(struct.pack("<q", len(raw)) + raw)


def unspool(file: BinaryIO) -> Iterator[str]:
    """Texts that `spool` wrote, from the beginning."""
    file.seek(0)
    while head := file.read(8):
        yield file.read(struct.unpack("<q", head)[0]).decode()


# -- how much of it ------------------------------------------------------------------------------------------------
def share(file: BinaryIO, limit: int = DISTINCT) -> float:
    """Share of a spooled text that has no more than `limit` bytes of different words, as far as a part of it shows.

    Their number grows as a power of the text's length (Heaps' law); the power is taken from half of the part.
    """
    size = file.seek(0, os.SEEK_END)
    if size <= limit:
        return 1.0
    split, seen, read, most = words(), set[str](), [0, 0], size / PROBED
    halves = [0, 0]
    due = 0.0
    for text in unspool(file):
        due += len(text) / most
        if due < min(len(text), 2_000):
            continue
        part = text[: int(due)]
        due -= len(part)
        seen.update(word for word, _ in split.pre_tokenize_str(part))
        read[1] += len(part.encode())
        if read[1] <= PROBED / 2:
            read[0], halves[0] = read[1], sum(len(word.encode()) for word in seen)
    halves[1] = sum(len(word.encode()) for word in seen)
    power = log(halves[1] / halves[0]) / log(read[1] / read[0]) if 0 < read[0] < read[1] and halves[0] else 1.0
    power = min(1.0, max(0.1, power))
    expected = halves[1] * (size / max(1, read[1])) ** power
    return float(min(1.0, (limit / expected) ** (1 / power)))


def thinned(texts: Iterable[str], part: float) -> Iterator[str]:
    """That share of texts, spread evenly."""
    due = 0.0
    for text in texts:
        due += part
        if due >= 1:
            due -= 1
            yield text


def main() -> None:
    """Learn as the first argument says, and end with the process that started this one."""
    asked = json.loads(sys.argv[1])
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    texts = thinned(unspool(sys.stdin.buffer), asked["share"]) if asked["share"] < 1 else unspool(sys.stdin.buffer)
    learned = learn(texts, asked["vocab"], asked["specials"], asked["algorithm"], asked["options"])
    sys.stdout.buffer.write(learned.to_str(pretty=False).encode())


if __name__ == "__main__":
    main()
