"""Files of tokenizers, made by the `tokenizers` library itself, as others would give them."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog; naïve façade, 日本語 テスト, привет мир 😀.\n",
    "Ein Satz auf Deutsch: Die Katze saß auf der Matte. Une phrase en français, là-bas.\n",
    "<|im_start|>user\nHello, how are you? [INST] I'm fine </s> thanks\n",
] * 4
END = "<|endoftext|>"


def byte_level(vocab: int = 400, specials: tuple[str, ...] = (END,), pattern: str | None = None) -> Tokenizer:
    """As GPT-2's, or with a pattern of its own as those of Llama 3 and Qwen."""
    found = Tokenizer(models.BPE())
    cutting = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        cutting = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), cutting])
    found.pre_tokenizer = cutting
    found.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=letters, show_progress=False)
    found.train_from_iterator(TEXT, trainer)
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return found


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Llama 3's pattern of words (meta-llama/llama3, tokenizer.py)."""


def llama3() -> Tokenizer:
    specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    found = byte_level(specials=specials, pattern=LLAMA3)
    begin = specials[0]
    found.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, found.token_to_id(begin))]
    )
    return found


def qwen() -> Tokenizer:
    found = byte_level(specials=(END, "<|im_start|>", "<|im_end|>"), pattern=LLAMA3)
    found.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return found


def wordpiece() -> Tokenizer:
    """As BERT's."""
    found = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=specials, show_progress=False)
    found.train_from_iterator(TEXT, trainer)
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


def unigram() -> Tokenizer:
    """As T5's: the special tokens are pieces of the model too, which text can spell."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = sorted({c for text in TEXT for c in text if not c.isspace()})
    words = sorted({f"▁{word}" for text in TEXT for word in text.split() if len(word) > 2})
    pieces += [(c, -6.0) for c in letters] + [(w, -5.0) for w in words]
    found = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    found.normalizer = normalizers.NFKC()
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    found.decoder = decoders.Metaspace(prepend_scheme="first")
    found.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<pad>", "</s>", "<unk>")])
    found.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return found


def sentencepiece() -> Tokenizer:
    """As Llama 2's and Mistral's: BPE over letters with bytes for the rest, a space before every text."""
    letters = sorted({c for text in TEXT for c in text if not c.isspace() and c.isascii()} | {"▁"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *letters]
    pairs = ("▁ t", "h e", "▁t he", "i n", "▁ H", "e l", "l o", "▁H el", "▁Hel lo")
    merges = [tuple(pair.split(" ")) for pair in pairs]
    tokens += ["".join(pair) for pair in merges]
    found = Tokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    found.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return found


def gemma() -> Tokenizer:
    """As Gemma's: BPE over letters with bytes for the rest, spaces as they come."""
    found = sentencepiece()
    found.normalizer = normalizers.Replace(" ", "▁")
    found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    turns = ("<start_of_turn>", "<end_of_turn>")
    found.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in turns])
    return found


SETTINGS: dict[str, dict[str, Any]] = {
    "bpe": {"vocab": 300},
    "wordpiece": {"vocab": 300},
    "unigram": {"vocab": 300},
    "huggingface": {"file": "tokenizer.json"},
}
"""What a tokenizer of each kind cannot be without."""
MADE = {
    "byte_level": (byte_level, {"bos_token": END, "eos_token": END}),
    "llama3": (llama3, {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}}),
    "qwen": (qwen, {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": END}),
    "wordpiece": (wordpiece, {f"{m}_token": f"[{m.upper()}]" for m in ("pad", "unk", "cls", "sep", "mask")}),
    "unigram": (unigram, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "gemma": (gemma, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "sentencepiece": (sentencepiece, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
}
"""Name -> (how the tokenizer is made, what its tokenizer_config.json says)."""


def write(folder: Path, name: str, **config: Any) -> Path:
    """tokenizer.json of one of MADE, with its tokenizer_config.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    make, usual = MADE[name]
    make().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**usual, **config}))
    return folder / "tokenizer.json"


@cache
def kept(name: str = "byte_level") -> str:
    """The same in a folder of its own, once a process."""
    return str(write(Path(tempfile.mkdtemp()), name))
