"""Text to token ids and back."""

from llmspec.parts.tokenizers.base import Codec, Tokenizer
from llmspec.parts.tokenizers.bpe import BPE
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.char import Char
from llmspec.parts.tokenizers.huggingface import HuggingFace
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.parts.tokenizers.unigram import Unigram
from llmspec.parts.tokenizers.wordpiece import WordPiece

TABLE: dict[str, type[Tokenizer]] = {
    "byte": Byte,
    "char": Char,
    "bpe": BPE,
    "wordpiece": WordPiece,
    "unigram": Unigram,
    "huggingface": HuggingFace,
}

__all__ = ["TABLE", "Codec", "SpecialTokens", "Tokenizer"]
