"""Feed-forward layers."""

from llmspec.core.table import Table
from llmspec.parts.mlps.base import MLP, FeedForward

TABLE = Table[FeedForward](
    __name__,
    {
        "relu": "ReLU",
        "relu2": "ReLU2",
        "gelu": "GELU",
        "silu": "SiLU",
        "reglu": "ReGLU",
        "swiglu": "SwiGLU",
        "geglu": "GeGLU",
        "mixture_of_experts": "MixtureOfExperts",
    },
)

__all__ = ["MLP", "TABLE", "FeedForward"]
