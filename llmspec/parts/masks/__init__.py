"""Which tokens a token may look at."""

from llmspec.core.table import Table
from llmspec.parts.masks.base import Mask

TABLE = Table[Mask](
    __name__,
    {
        "causal": "Causal",
        "bidirectional": "Bidirectional",
        "prefix": "Prefix",
    },
)

__all__ = ["TABLE", "Mask"]
