"""Text to token ids and back."""

from llmspec.parts.tokenizers.base import Codec, Tokenizer
from llmspec.parts.tokenizers.bpe import BPE
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.char import Char
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

TABLE: dict[str, type[Tokenizer]] = {"byte": Byte, "char": Char, "bpe": BPE}

__all__ = ["TABLE", "Codec", "SpecialTokens", "Tokenizer"]
