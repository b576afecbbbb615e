"""Tokenizers: text comes back as it was, and no text ever becomes a special token."""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmspec.compiler.draft import closed
from llmspec.core.problems import DataError
from llmspec.parts.tokenizers import TABLE, learner
from llmspec.parts.tokenizers.base import SpelledTokenizer
from llmspec.parts.tokenizers.special_tokens import EOS, EXTRAS, SPECIALS, UNKNOWN, Extra

MARKERS = ("<|summarize|>", "<|a|>")
TEXT = ["the cat and the hat, the bat; <|user|> said <|end|> of the <|a|>\n" * 3, "naïve façade – 日本語 😀"]
TOKENIZERS = {
    "byte": TABLE["byte"](markers=MARKERS),
    "char": TABLE["char"](markers=MARKERS, vocab=64),
    "bpe": TABLE["bpe"](markers=MARKERS, vocab=8 + 256 + 24),
    "wordpiece": TABLE["wordpiece"](markers=MARKERS, vocab=62),
    "unigram": TABLE["unigram"](markers=MARKERS, vocab=8 + 256 + 24),
}
CODECS = {kind: part.train(TEXT) for kind, part in TOKENIZERS.items()}
OURS = tuple(TOKENIZERS)
FILE = Path(tempfile.mkdtemp()) / "tokenizer.json"
FILE.write_text(CODECS["bpe"].to_json())
_opened = TABLE["huggingface"](file=str(FILE), markers=MARKERS, bos="<|end|>", eos="<|end|>")
TOKENIZERS["huggingface"] = closed(_opened, _opened.opened("."))
CODECS["huggingface"] = TOKENIZERS["huggingface"].train(())
REVERSIBLE = [kind for kind, codec in CODECS.items() if codec.reversible]
unicode = st.text(st.characters(exclude_categories=["Cs"]))
spellings = st.sampled_from([*SPECIALS, *MARKERS, UNKNOWN, "<|", "|>", "<", "|", "user", "Ġ", " ", "\n", "�"])
spelled = st.lists(spellings | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)).map("".join)


def test_every_kind_is_tested() -> None:
    assert TOKENIZERS.keys() == TABLE.keys()
    assert {kind for kind, part in TABLE.items() if issubclass(part, SpelledTokenizer)} == {*OURS}
    assert {*REVERSIBLE} == {"byte", "bpe", "unigram", "huggingface"}, "of the last, since its file is byte-level"


@pytest.mark.parametrize("kind", REVERSIBLE)
@given(text=unicode | spelled)
@example(text="\0\r\n\u2028﻿é́\U0010ffff")
@settings(deadline=None)
def test_text_comes_back(kind: str, text: str) -> None:
    codec = CODECS[kind]
    ids = codec.encode([text])[0]
    assert codec.decode(ids) == text
    assert b"".join(map(codec.token_bytes, ids)) == text.encode()


@given(text=unicode | spelled)
@settings(deadline=None)
def test_char_keeps_what_it_knows_and_marks_the_rest(text: str) -> None:
    codec = CODECS["char"]
    known = {codec.token_bytes(i).decode() for i in range(codec.vocab) if codec.token_bytes(i)} - {"�"}
    assert codec.decode(codec.encode([text])[0]) == "".join(c if c in known else "�" for c in text)


@pytest.mark.parametrize("kind", TABLE)
@given(text=spelled)
@settings(deadline=None)
def test_no_text_becomes_a_special_token(kind: str, text: str) -> None:
    codec = CODECS[kind]
    ids = codec.encode([text])[0]
    assert not {*ids} & ({*codec.specials.values()} - {codec.specials.unk})
    assert all(0 <= i < codec.vocab for i in ids)


@pytest.mark.parametrize("kind", OURS)
def test_specials_take_the_first_ids_in_order(kind: str) -> None:
    codec, part = CODECS[kind], TOKENIZERS[kind]
    assert codec.specials == {special: i for i, special in enumerate(part.specials())}
    assert list(codec.specials)[:8] == [*SPECIALS, *MARKERS]
    assert codec.vocab == part.size()


@pytest.mark.parametrize("kind", OURS)
def test_special_tokens_have_meanings_and_todays_ids(kind: str) -> None:
    found = CODECS[kind].specials
    assert (found.bos, found.eos, found.turn_end) == (0, 0, 1)
    assert dict(found.roles) == {"system": 2, "developer": 3, "user": 4, "assistant": 5}
    assert (found.pad, found.mask, found.cls, found.sep) == (None, None, None, None)
    unknown = [8] if TABLE[kind].always else []
    assert found.unk == next(iter(unknown), None)
    assert found.reserved == {*range(6), *unknown}, "markers are not"
    with pytest.raises(DataError, match="no special token for `mask`") as caught:
        found.need("mask")
    assert "special_tokens: [mask]" in caught.value.problems[0].hint
    with pytest.raises(TypeError):
        found.ids["<|end|>"] = 1  # type: ignore[index]


@pytest.mark.parametrize("kind", OURS)
@given(asked=st.lists(st.sampled_from(list(EXTRAS)), unique=True, min_size=1))
@settings(deadline=None, max_examples=10)
def test_special_tokens_that_are_asked_for_come_last_and_renumber_none(kind: str, asked: list[Extra]) -> None:
    before = TOKENIZERS[kind]
    part = before.model_copy(update={"special_tokens": tuple(asked), "vocab": before.size() + len(asked)})
    codec, n = part.train(TEXT), len(before.specials())
    assert list(codec.specials)[:n] == list(before.specials())
    assert [codec.specials.need(name) for name in asked] == list(range(n, n + len(asked)))
    assert not list(part.check())
    assert part.load(codec.to_json()).specials == codec.specials
    assert part.identity() != before.identity(), "its ids are others"
    assert not {*codec.encode(["".join(codec.specials)])[0]} & ({*codec.specials.values()} - {codec.specials.unk})


@pytest.mark.parametrize("kind", OURS)
def test_asking_for_no_special_token_leaves_data_and_keys_as_they_were(kind: str) -> None:
    assert "special_tokens" not in TOKENIZERS[kind].identity()


@pytest.mark.parametrize("asked", [("mask", "mask"), ("word",), ("sep",)])
def test_special_tokens_are_known_ones_asked_for_once(asked: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"asked for once|Input should be|one of `markers:`"):
        TABLE["byte"](markers=("<|sep|>",), special_tokens=asked)


@pytest.mark.parametrize("kind", TABLE)
@given(text=spelled)
@settings(deadline=None, max_examples=25)
def test_specials_are_left_out_or_spelled(kind: str, text: str) -> None:
    codec = CODECS[kind]
    ids = codec.encode([text])[0]
    framed = [codec.specials[EOS], *ids, codec.specials["<|a|>"]]
    assert codec.decode(framed) == codec.decode(ids)
    shown, expected = codec.decode(framed, specials=True), EOS + codec.decode(ids, specials=True) + "<|a|>"
    # WordPiece writes a space before every word, also those of special tokens.
    assert shown == expected if kind != "wordpiece" else shown.split() == f"{EOS} {expected[7:-5]} <|a|>".split()


@pytest.mark.parametrize("kind", TABLE)
@given(texts=st.lists(spelled, max_size=4))
@settings(deadline=None, max_examples=25)
def test_a_saved_tokenizer_is_the_same(kind: str, texts: list[str]) -> None:
    codec = CODECS[kind]
    again = TOKENIZERS[kind].load(codec.to_json())
    assert again.encode(texts) == codec.encode(texts)
    assert again.to_json() == codec.to_json()
    assert (again.vocab, again.specials) == (codec.vocab, codec.specials)


@pytest.mark.parametrize("kind", TABLE)
@given(text=unicode, cut=st.integers(0, 200))
@example(text="AN", cut=1)
@settings(deadline=None, max_examples=50)
def test_broken_utf8_is_shown_not_raised(kind: str, text: str, cut: int) -> None:
    codec = CODECS[kind]
    ids = codec.encode([text])[0][cut:]
    assert isinstance(codec.decode(ids), str)
    # A space before the first word belongs to the text before it, and so does what a piece of a word begins with.
    spelled = [token for token in ids if codec.token_bytes(token)]
    shown = b"".join(codec.token_bytes(token, begins=i == 0) for i, token in enumerate(spelled))
    assert codec.decode(ids) == shown.decode(errors="replace")


@pytest.mark.parametrize("kind", TABLE)
@given(text=unicode | spelled)
@settings(deadline=None)
def test_what_is_decoded_has_the_same_ids_again(kind: str, text: str) -> None:
    codec = CODECS[kind]
    ids = codec.encode([text])[0]
    if codec.specials.unk not in ids:
        assert codec.encode([codec.decode(ids)])[0] == ids


def test_wordpiece_reads_as_bert_does() -> None:
    codec = CODECS["wordpiece"]
    assert codec.decode(codec.encode(["The  CÁT,\x00 and the <|end|>\n"])[0]) == "the cat , and the < | end | >"
    cased = TABLE["wordpiece"](vocab=33, lowercase=False).train(["The cat and the Hat " * 9])
    assert cased.decode(cased.encode(["The cat, the Hat"])[0]) == "The cat the Hat", "the comma is unknown"


def test_bpe_is_a_plain_file_of_the_tokenizers_library() -> None:
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_str(CODECS["bpe"].to_json())
    text = "the cat naïve 😀"
    assert theirs.encode(text).ids == CODECS["bpe"].encode([text])[0]
    assert theirs.decode(theirs.encode(text).ids) == text


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_learning_is_the_same_in_every_process(kind: str) -> None:
    script = (
        "from llmspec.parts.tokenizers import TABLE\nimport random\nrandom.seed(1)\n"
        "words = [''.join(random.choices('abcdef', k=random.randint(1, 6))) for _ in range(4000)]\n"
        f"print(TABLE['{kind}'](vocab=400).train([' '.join(words[i::7]) for i in range(7)]).to_json())"
    )
    made = {
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(made) == 1 and '"model"' in made.pop()


def test_training_and_forking_print_nothing() -> None:
    script = (
        "import os\nfrom llmspec.parts.tokenizers import TABLE\n"
        "c = TABLE['bpe'](vocab=264).train(['abc abc abd abd abe abe'] * 9)\nc.encode(['x'] * 9)\n"
        "pid = os.fork()\nif not pid: c.encode(['y'] * 9); os._exit(0)\nassert os.waitpid(pid, 0)[1] == 0"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_char_ids_go_by_frequency_then_code_point() -> None:
    codec = TABLE["char"](vocab=12).train(["bbaacz", "cz"])
    assert [codec.token_bytes(i).decode() for i in range(7, 11)] == ["a", "b", "c", "z"]
    assert codec.vocab == 12 and codec.token_bytes(11) == b""


@pytest.mark.parametrize("kind", TABLE)
def test_half_a_surrogate_pair_is_named(kind: str) -> None:
    with pytest.raises(DataError, match=r"U\+D83D"):
        CODECS[kind].encode(["fine", "bad \ud83d here"])


@pytest.mark.parametrize(("kind", "smallest"), [("bpe", 264), ("unigram", 264), ("char", 10), ("wordpiece", 10)])
def test_a_vocabulary_smaller_than_its_specials_is_found_without_text(kind: str, smallest: int) -> None:
    small = TABLE[kind](markers=MARKERS, vocab=smallest - 1)
    (problem,) = small.check()
    assert problem.path == ("vocab",) and str(smallest) in problem.hint
    assert not list(TABLE[kind](markers=MARKERS, vocab=smallest).check())


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_too_little_text_for_the_vocabulary_names_what_there_is(kind: str) -> None:
    with pytest.raises(DataError) as caught:
        TABLE[kind](vocab=5000).train(["to be or not to be"])
    hint = caught.value.problems[0].hint
    assert hint.startswith("vocab: ")
    assert TABLE[kind](vocab=int(hint.split()[1])).train(["to be or not to be"]).vocab == int(hint.split()[1])


# -- unigram -----------------------------------------------------------------------------------------------------------
def ways(word: str, pieces: list[str]) -> list[list[str]]:
    """All ways to cut a word into pieces."""
    if not word:
        return [[]]
    return [[p, *rest] for p in pieces if word.startswith(p) for rest in ways(word[len(p) :], pieces)]


@given(
    words=st.lists(st.text("abc", min_size=1, max_size=7), min_size=1, max_size=5, unique=True),
    longer=st.lists(st.text("abc", min_size=2, max_size=4), max_size=6, unique=True),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_expectations_and_best_ways_are_those_of_all_ways(
    words: list[str], longer: list[str], data: st.DataObject
) -> None:
    """Kudo 2018, equations 3 to 7, by enumeration."""
    pieces = ["a", "b", "c", *longer]
    score = np.array([-data.draw(st.integers(1, 9)) / 2 for _ in pieces])
    counts = np.array([data.draw(st.integers(1, 5)) for _ in words], float)
    at = {piece: i for i, piece in enumerate(pieces)}
    expected = np.zeros(len(pieces))
    for word, count in zip(words, counts, strict=True):
        found = ways(word, pieces)
        chances = np.exp([sum(score[at[p]] for p in way) for way in found])
        for way, chance in zip(found, chances / chances.sum(), strict=True):
            for piece in way:
                expected[at[piece]] += count * chance
    np.testing.assert_allclose(learner._expected(words, counts, pieces, score), expected, rtol=1e-9, atol=1e-12)
    best = learner._best(pieces, score)
    for piece in longer:
        others = [way for way in ways(piece, pieces) if way != [piece]]
        assert best[at[piece]] == pytest.approx(max(sum(score[at[p]] for p in way) for way in others))


def test_digamma_is_the_derivative_of_log_gamma() -> None:
    x = np.array([0.1, 0.5, 1.0, 2.5, 40.0, 1e6])
    step = 1e-4 * x
    slope = [(math.lgamma(a + h) - math.lgamma(a - h)) / (2 * h) for a, h in zip(x, step, strict=True)]
    np.testing.assert_allclose(learner._digamma(x), slope, rtol=1e-5, atol=1e-5)


def test_unigram_takes_the_likeliest_way() -> None:
    codec = CODECS["unigram"]
    pairs = json.loads(codec.to_json())["model"]["vocab"]
    score = dict(map(tuple, pairs))
    pieces = [piece for piece in score if piece not in codec.specials]
    for word in ("the", "that", "hat", "Ġbat", "Ġand"):
        best = max(sum(score[p] for p in way) for way in ways(word, pieces))
        ids = codec.encode([word.replace("Ġ", " ")])[0]
        assert sum(pairs[i][1] for i in ids) == pytest.approx(best)


@pytest.mark.parametrize(
    "markers", [("summarize",), ("<|user|>",), ("<|unk|>",), ("<|_|>",), ("<||>",), ("<|a b|>",), ("<|a|>", "<|a|>")]
)
def test_markers_are_well_spelled_and_new(markers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"marker|special token"):
        TABLE["byte"](markers=markers)


@pytest.mark.parametrize("kind", OURS)
def test_a_tokenizer_of_other_settings_is_refused(kind: str) -> None:
    other = TOKENIZERS[kind].model_copy(update={"markers": ("<|other|>", "<|a|>")})
    for text in (CODECS[kind].to_json(), "{}", "no json"):
        with pytest.raises(DataError, match=r"tokenizer\.json"):
            other.load(text)
