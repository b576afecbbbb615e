"""Normalisations."""

from llmspec.core.table import Table
from llmspec.parts.norms.base import Norm

TABLE = Table[Norm](
    __name__,
    {
        "layernorm": "LayerNorm",
        "rmsnorm": "RMSNorm",
    },
)

__all__ = ["TABLE", "Norm"]
