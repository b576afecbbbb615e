"""What a network ends in."""

from llmspec.core.table import Table
from llmspec.parts.heads.base import Head, HeadFunctions

TABLE = Table[Head](
    __name__,
    {
        "lm": "LM",
        "scalar": "Scalar",
        "score": "Score",
        "classes": "Classes",
        "tokens": "Tokens",
        "embedding": "Embedding",
    },
)

__all__ = ["TABLE", "Head", "HeadFunctions"]
