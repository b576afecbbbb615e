from llmspec.parts.tokenizers.base import Codec, Tokenizer
from llmspec.parts.tokenizers.bpe import BPE
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.char import Char

TABLE: dict[str, type[Tokenizer]] = {"byte": Byte, "char": Char, "bpe": BPE}

__all__ = ["TABLE", "Codec", "Tokenizer"]
