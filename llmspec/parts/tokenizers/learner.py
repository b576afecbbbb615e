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
PIECE, WORD, MOST_WORDS = 16, 32, 60_000
"""Bytes of a piece of a unigram model, at most; bytes of a word that it learns from, of which longer ones are cut; and
how many different words it learns from, the most frequent ones."""
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
    if algorithm == "unigram":
        return _unigram(tokenizer, texts, vocab, specials)
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


# -- unigram -------------------------------------------------------------------------------------------------------
def _unigram(tokenizer: Any, texts: Iterable[str], vocab: int, specials: Sequence[str]) -> Any:
    """The same for a unigram model. The library's trainer adds numbers in an order that changes from process to
    process; this one does not, so that the same text always gives the same pieces."""
    from tokenizers import Tokenizer, pre_tokenizers

    counts: Counter[str] = Counter()
    cut = cutting()
    for text in texts:
        for word, _ in cut.pre_tokenize_str(text):
            for begin in range(0, len(word), WORD):
                counts[word[begin : begin + WORD]] += 1
    chosen = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    scores = _pieces(chosen, [counts[word] for word in chosen], letters, max(len(letters), vocab - len(specials)))
    # What spells a special token is never cut as one word.
    pairs = [*((token, -1000.0) for token in specials), *scores]
    file = json.loads(tokenizer.to_str())
    file["model"] = {"type": "Unigram", "unk_id": None, "vocab": pairs, "byte_fallback": False}
    made = Tokenizer.from_str(json.dumps(file))
    made.add_special_tokens(list(specials))
    return made


def _pieces(words: Sequence[str], counts: Sequence[int], letters: Sequence[str], size: int) -> list[tuple[str, float]]:
    """(piece, log of its probability), the likeliest first: expectation maximisation from all frequent pieces, of
    which a quarter that is missed least is left out again and again (Kudo 2018, section 3.2)."""
    import numpy as np

    seen: Counter[str] = Counter(dict.fromkeys(letters, 0))
    for word, count in zip(words, counts, strict=True):
        for begin in range(len(word)):
            for end in range(begin + 1, min(len(word), begin + PIECE) + 1):
                seen[word[begin:end]] += count
    alone = set(letters)
    longer = sorted((p for p in seen if p not in alone and seen[p] > 1), key=lambda p: (-seen[p] * len(p), p))
    pieces = [*letters, *longer[: max(8 * size, 10_000)]]
    frequency = np.array([max(1, seen[piece]) for piece in pieces], np.float64)
    score = np.log(frequency / frequency.sum())
    weights = np.array(counts, np.float64)
    while True:
        for _ in range(2):
            expected = _expected(words, weights, pieces, score)
            ranked = np.where(np.arange(len(pieces)) < len(letters), np.inf, expected)
            keep = (ranked >= 0.5) | (ranked >= np.sort(ranked)[-min(size, len(ranked))])
            pieces, expected = [p for p, kept in zip(pieces, keep, strict=True) if kept], expected[keep]
            expected = np.maximum(expected, 0.1)
            score = _digamma(expected) - _digamma(expected.sum(keepdims=True))
        if len(pieces) <= size:
            break
        # What a text loses without a piece: the next best way to write it, as often as it occurs.
        loss = expected * (score - _best(pieces, score))
        loss[: len(letters)] = np.inf
        left = max(size, int(0.75 * len(pieces)))
        order = sorted(range(len(pieces)), key=lambda i: (-loss[i], pieces[i]))[:left]
        pieces, score = [pieces[i] for i in sorted(order)], score[sorted(order)]
    by_score = sorted(zip(pieces, score.round(6).tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [(piece, float(value)) for piece, value in by_score]


def _lattices(words: Sequence[str], pieces: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Words of like length, as (their numbers (n,), piece[n, end, length - 1] with -1 where none is)."""
    import numpy as np

    number = {piece: i for i, piece in enumerate(pieces)}
    for low, high in ((0, 4), (4, 8), (8, 16), (16, WORD)):
        of = [i for i, word in enumerate(words) if low < len(word) <= high]
        for begin in range(0, len(of), 20_000):
            part = of[begin : begin + 20_000]
            found = np.full((len(part), high + 1, min(PIECE, high)), -1, np.int32)
            for row, i in enumerate(part):
                word = words[i]
                for end in range(1, len(word) + 1):
                    for length in range(1, min(PIECE, end) + 1):
                        found[row, end, length - 1] = number.get(word[end - length : end], -1)
            yield np.array(part), found


def _expected(words: Sequence[str], weights: Any, pieces: Sequence[str], score: Any) -> Any:
    """How often each piece is expected in the words, over all ways to cut them: forward and backward sums."""
    import numpy as np

    total, padded = np.zeros(len(pieces)), np.append(score, -np.inf)
    for part, piece in _lattices(words, pieces):
        n, places, longest = piece.shape
        sizes = np.array([len(words[i]) for i in part])
        value = padded[piece]  # the score of each piece, -inf where none is
        before = np.full((n, places), -np.inf)
        before[:, 0] = 0
        for end in range(1, places):
            reach = min(longest, end)
            before[:, end] = _log_sum(before[:, end - reach : end][:, ::-1] + value[:, end, :reach])
        after = np.full((n, places), -np.inf)
        after[np.arange(n), sizes] = 0
        for begin in range(places - 2, -1, -1):
            reach = min(longest, places - 1 - begin)
            ends = np.arange(1, reach + 1)
            onward = after[:, begin + ends] + value[:, begin + ends, ends - 1]
            after[:, begin] = np.logaddexp(after[:, begin], _log_sum(onward))
        whole = before[np.arange(n), sizes]
        for end in range(1, places):
            reach = min(longest, end)
            ways = before[:, end - reach : end][:, ::-1] + value[:, end, :reach] + (after[:, end] - whole)[:, None]
            share = np.exp(ways) * weights[part][:, None]
            held = piece[:, end, :reach] >= 0
            total += np.bincount(piece[:, end, :reach][held], share[held], len(pieces))
    return total


def _best(pieces: Sequence[str], score: Any) -> Any:
    """The score of the best way to write each piece by others; of single letters, nothing."""
    import numpy as np

    found, padded = np.zeros(len(pieces)), np.append(score, -np.inf)
    for part, piece in _lattices(pieces, pieces):
        n, places, longest = piece.shape
        sizes = np.array([len(pieces[i]) for i in part])
        value = padded[piece]
        value[np.arange(n), sizes, np.minimum(sizes, longest) - 1] = -np.inf  # itself
        best = np.full((n, places), -np.inf)
        best[:, 0] = 0
        for end in range(1, places):
            reach = min(longest, end)
            best[:, end] = (best[:, end - reach : end][:, ::-1] + value[:, end, :reach]).max(axis=1)
        found[part] = best[np.arange(n), sizes]
    return found


def _log_sum(values: Any) -> Any:
    """log of the sum of exp along the last axis; -inf where all are."""
    import numpy as np

    top = values.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.where(np.isfinite(top), safe + np.log(np.exp(values - safe[:, None]).sum(axis=1)), -np.inf)


def _digamma(x: Any) -> Any:
    """ψ(x) for x > 0 (Abramowitz & Stegun 1964, 6.3.5 and 6.3.18)."""
    import numpy as np

    shift, y = np.zeros_like(x), x.copy()
    for _ in range(6):
        shift -= 1 / y
        y += 1
    z = 1 / (y * y)
    return shift + np.log(y) - 0.5 / y - z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z / 132))))


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
