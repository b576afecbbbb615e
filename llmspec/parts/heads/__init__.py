"""What a network ends in."""

from llmspec.parts.heads.base import Head, HeadFunctions
from llmspec.parts.heads.classes import Classes
from llmspec.parts.heads.embedding import Embedding
from llmspec.parts.heads.lm import LM
from llmspec.parts.heads.scalar import Scalar
from llmspec.parts.heads.score import Score
from llmspec.parts.heads.tokens import Tokens

TABLE: dict[str, type[Head]] = {
    "lm": LM,
    "scalar": Scalar,
    "score": Score,
    "classes": Classes,
    "tokens": Tokens,
    "embedding": Embedding,
}

__all__ = ["TABLE", "Embedding", "Head", "HeadFunctions"]
