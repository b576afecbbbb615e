"""Text to token ids and back."""

from llmspec.core.table import Table
from llmspec.parts.tokenizers.base import Codec, Tokenizer
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

TABLE = Table[Tokenizer](
    __name__,
    {
        "byte": "Byte",
        "char": "Char",
        "bpe": "BPE",
        "wordpiece": "WordPiece",
        "unigram": "Unigram",
        "huggingface": "HuggingFace",
    },
)

__all__ = ["TABLE", "Codec", "SpecialTokens", "Tokenizer"]
