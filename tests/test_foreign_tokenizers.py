"""Tokenizers that others trained: their files as they are, their special tokens, and what is refused of them."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizer_files
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from llmspec.compiler.draft import closed
from llmspec.core.problems import DataError, SpecError
from llmspec.data.writing import Cutter
from llmspec.decoding.answer import Answer, Drawing
from llmspec.parts.tokenizers import TABLE
from llmspec.parts.tokenizers.base import Continuing
from llmspec.parts.tokenizers.huggingface import HuggingFace
from llmspec.spec.decoding import Decoding

NAMES = list(tokenizer_files.MADE)
SPELLINGS = ["</s>", "<s>", "<pad>", "[CLS]", "[SEP]", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "＜/s＞", "<unk>"]
texts = st.lists(
    st.sampled_from([*SPELLINGS, "<think>", "▁", " ", "\n", "##a", "<0x41>", "the", "Hello"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
).map("".join)


def opened(path: Path | str, **keys: Any) -> HuggingFace:
    part = TABLE["huggingface"](file=str(path), **keys)
    return closed(part, part.opened("."))


PARTS = {name: opened(tokenizer_files.kept(name)) for name in NAMES}
CODECS = {name: part.train(()) for name, part in PARTS.items()}
THEIRS = {name: Library.from_file(tokenizer_files.kept(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@given(text=texts)
@settings(deadline=None)
def test_ids_are_those_of_the_library_and_never_special(name: str, text: str) -> None:
    """Where the library's ids hold a special token that text has spelled, ours hold the same text without it."""
    codec, theirs = CODECS[name], THEIRS[name]
    ids = codec.encode([text])[0]
    assert not ({*codec.specials.values()} - {codec.specials.unk}) & {*ids}
    if not any(spelling in unicodedata.normalize("NFKC", text) for spelling in codec.specials):
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        assert codec.decode(ids) == theirs.decode(ids)
        assert codec.decode(ids, specials=True) == theirs.decode(ids, skip_special_tokens=False)
    if codec.reversible:
        assert codec.decode(ids) == text
    assert codec.encode_flat([text, text])[0].tolist() == 2 * ids


def test_a_special_token_that_the_model_itself_would_spell_is_text() -> None:
    """A unigram model has its special tokens among its pieces: the text `</s>` would end a document."""
    codec, theirs = CODECS["unigram"], THEIRS["unigram"]
    theirs.encode_special_tokens = True
    assert codec.specials.eos in theirs.encode("a</s>", add_special_tokens=False).ids, "what is to be prevented"
    theirs.encode_special_tokens = False
    ids = codec.encode(["a</s>"])[0]
    assert codec.specials.eos not in ids and codec.decode(ids) == "a</s>"


@pytest.mark.parametrize("name", NAMES)
@given(text=texts)
@settings(deadline=None, max_examples=30)
def test_bytes_of_tokens_are_the_text_that_decoding_gives(name: str, text: str) -> None:
    codec = CODECS[name]
    ids = codec.encode([text])[0]
    shown = b"".join(map(codec.token_bytes, ids)).decode(errors="replace")
    assert codec.decode(ids) in (shown, shown.removeprefix(" ")), "a space before the first word belongs elsewhere"


def test_meanings_come_from_the_files_beside_and_from_keys() -> None:
    found = {name: part.named for name, part in PARTS.items()}
    assert found["llama3"] == {"bos": "<|begin_of_text|>", "eos": "<|eot_id|>"}
    assert found["qwen"] == {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
    assert found["wordpiece"] == {m: f"[{m.upper()}]" for m in ("pad", "unk", "mask", "cls", "sep")}
    bert, llama = CODECS["wordpiece"].specials, CODECS["llama3"].specials
    assert (bert.before, bert.after) == ((2,), (3,)), "the frame of a text, from the post-processor"
    assert (llama.before, llama.after) == ((llama.bos,), ())
    assert CODECS["unigram"].specials.after == (1,)
    own = opened(tokenizer_files.kept("qwen"), eos="<|endoftext|>", turn_end="<|im_end|>", mask="<think>")
    specials = own.train(()).specials
    assert own.meanings().turn_end == specials.turn_end == specials["<|im_end|>"]
    assert specials.eos == specials["<|endoftext|>"]
    assert specials.mask not in own.train(()).encode(["<think>"])[0], "a named token is special, whatever the file says"
    assert specials.mask != CODECS["qwen"].specials.mask
    assert CODECS["qwen"].encode(["<think>"])[0] == [THEIRS["qwen"].token_to_id("<think>")]


def test_meanings_come_by_number_where_no_file_names_them(tmp_path: Path) -> None:
    path = tokenizer_files.write(tmp_path, "byte_level", bos_token=None, eos_token=None)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [400, 1], "bos_token_id": 400}))
    assert opened(path).named == {"bos": "<|endoftext|>", "eos": "<|endoftext|>"}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_kept_byte_for_byte(name: str) -> None:
    part, codec = PARTS[name], CODECS[name]
    assert codec.to_json().encode() == Path(part.file).read_bytes()
    assert part.load(codec.to_json()).specials == codec.specials
    with pytest.raises(DataError, match="not the one"):
        part.load(codec.to_json().replace('"', ' "', 1))
    moved = part.model_copy(update={"file": "elsewhere/tokenizer.json"})
    assert moved.identity() == part.identity(), "where it lies shapes nothing"
    assert part.model_copy(update={"eos": "<s>"}).codec_identity(codec) != part.codec_identity(codec)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_text_is_cut_where_tokens_end(name: str) -> None:
    rng = random.Random(name)
    words = [" ", "\n", "Hello", "the", "naïve", ".\n", "  ", "日本語", "<think>", "1234", "</s>", "don't"]
    text = "".join(rng.choices(words, k=60_000))
    codec = CODECS[name]
    cutter = Cutter(PARTS[name].cutter(codec))
    pieces = [*cutter.push(text[:50_000]), *cutter.push(text[50_000:]), *cutter.end()]
    assert "".join(pieces) == text and len(pieces) > 2 and isinstance(pieces[1], Continuing)
    assert [i for ids in codec.encode(pieces) for i in ids] == codec.encode([text])[0]


def test_bert_vocabulary_and_gpt2_files_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    vocab = THEIRS["wordpiece"].get_vocab()
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in sorted(vocab, key=vocab.get)))
    bert = opened(tmp_path / "vocab.txt")
    text = "Hello, the naïve façade [CLS] – 日本語 the\0 fox"
    assert bert.train(()).encode([text])[0] == CODECS["wordpiece"].encode([text])[0]
    assert bert.named == PARTS["wordpiece"].named and bert.train(()).specials.before == (2,)
    assert opened(tmp_path / "vocab.txt", lowercase=False).sha256 != bert.sha256
    THEIRS["byte_level"].model.save(str(tmp_path))
    plain = json.loads((tmp_path / "vocab.json").read_text()) | {"<|endoftext|>": 400}
    (tmp_path / "vocab.json").write_text(json.dumps(plain))
    gpt2 = opened(tmp_path / "vocab.json", merges=str(tmp_path / "merges.txt"))
    assert gpt2.train(()).encode([text])[0] == CODECS["byte_level"].encode([text])[0]
    assert gpt2.named == {"bos": "<|endoftext|>", "eos": "<|endoftext|>"} and gpt2.vocab == 401
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        opened(tmp_path / "vocab.json")


BAD = {
    "missing": (None, "no such file"),
    "empty": (b"", "not JSON"),
    "cut": (lambda raw: raw[: len(raw) // 2], "not JSON"),
    "no UTF-8": (b"\xff\xfe{}", "not UTF-8"),
    "no model": (b'{"version": "1.0"}', "no `model`"),
    "a list": (b"[]", "cannot be read"),
    "unknown model": (lambda raw: raw.replace(b'"BPE"', b'"BPEE"'), "does not read"),
    "twice": (lambda raw: raw.replace(b'"version"', b'"version":1,"version"', 1), "twice"),
    "deep": (b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    path = tmp_path / "tokenizer.json"
    if content is not None:
        raw = Path(tokenizer_files.kept()).read_bytes()
        path.write_bytes(content(raw) if callable(content) else content)
    with pytest.raises(DataError, match=words):
        opened(path)


def test_keys_that_the_file_does_not_have_are_all_named() -> None:
    with pytest.raises(DataError) as caught:
        opened(tokenizer_files.kept("qwen"), eos="<|im_and|>", vocab=7, markers=("<|nothing|>",), sha256="0" * 64)
    problems = {problem.path: problem for problem in caught.value.problems}
    assert {*problems} == {("eos",), ("vocab",), ("markers", 0), ("sha256",)}
    assert "<|im_end|>" in problems[("eos",)].hint


def test_all_tokens_that_end_an_answer_do(tmp_path: Path) -> None:
    """generation_config.json of Llama 3 lists several."""
    path = tokenizer_files.write(tmp_path, "llama3")
    theirs = THEIRS["llama3"]
    ids = [theirs.token_to_id(t) for t in ("<|end_of_text|>", "<|eot_id|>", "<|end_header_id|>")]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    part = opened(path)
    assert part.eos == "<|eot_id|>" and part.ends == ("<|end_of_text|>", "<|end_header_id|>")
    assert part.identity() != PARTS["llama3"].identity() and part.meanings().ends == (ids[0], ids[2])
    codec = part.train(())
    for chat in (False, True):
        how = Drawing(codec, Decoding(temperature=0, max_tokens=9), 32, 0, chat, False)
        for end in ids:
            answer, logits = Answer(how, 0, 0, [5]), np.zeros(codec.vocab)
            logits[codec.encode(["Hello"])[0][0]] = 1
            first = answer.draw(logits)
            assert first.finish_reason is None
            logits[end] = 2
            assert answer.draw(logits).finish_reason == "end"
        answer, logits = Answer(how, 0, 0, [5]), np.zeros(codec.vocab)
        logits[codec.specials["<|start_header_id|>"]] = 1
        assert answer.draw(logits).finish_reason is None, "another special token ends nothing"
    with pytest.raises(DataError, match="no special token `</s>`"):
        opened(path, ends=("</s>",))


# -- in a spec ---------------------------------------------------------------------------------------------------------
SPEC = """\
name: tiny
model: {context: 32, d_model: 16, layers: 1, attention: {heads: 2}}
tokenizer: {kind: huggingface, file: files/tokenizer.json}
data:
  sources:
    s: {kind: inline, documents: [Hello there the fox is quick and lazy, another one here </s>], max_epochs: 99}
phases:
  p: {kind: pretrain, mixture: {s: 100%}, budget: 2 steps, micro_batch_size: 1}
"""


def test_a_spec_reads_it_beside_itself_and_the_run_stands_alone(tmp_path: Path) -> None:
    import llmspec
    from llmspec.compiler.plan import Plan

    made = tokenizer_files.write(tmp_path / "files", "byte_level")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    plan = llmspec.compile(llmspec.load_spec(spec).spec)
    assert plan.model.vocab == 401 and plan.tokenizer.eos == "<|endoftext|>"
    assert {"tokenizer.vocab", "tokenizer.sha256", "tokenizer.eos"} <= {d.path for d in plan.decisions}
    assert Plan.parse(json.dumps(plan.dump())) == plan
    below = tmp_path / "below"
    below.mkdir()
    (below / "more.yaml").write_text("extends: ../spec.yaml\nname: more\n")
    assert llmspec.compile(llmspec.load_spec(below / "more.yaml").spec).model.vocab == 401
    llmspec.run(plan, tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer.json").read_bytes() == made.read_bytes()
    made.unlink()
    model = llmspec.open(tmp_path / "run")
    assert model.codec.vocab == 401 and model.generate("Hello", max_tokens=3)[0].tokens


def test_a_phase_needs_a_token_between_documents(tmp_path: Path) -> None:
    import llmspec

    tokenizer_files.write(tmp_path / "files", "wordpiece")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    with pytest.raises(SpecError, match="`eos`") as caught:
        llmspec.compile(llmspec.load_spec(spec).spec)
    assert "`eos:` at the tokenizer names one" in caught.value.problems[0].hint
    spec.write_text(SPEC.replace("files/tokenizer.json", 'files/tokenizer.json, eos: "[SEP]"'))
    assert llmspec.compile(llmspec.load_spec(spec).spec).tokenizer.meanings().eos == 3
