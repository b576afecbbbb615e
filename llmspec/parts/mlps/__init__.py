"""Feed-forward layers."""

from llmspec.parts.mlps.base import MLP, TABLE, FeedForward
from llmspec.parts.mlps.geglu import GeGLU
from llmspec.parts.mlps.gelu import GELU
from llmspec.parts.mlps.mixture_of_experts import MixtureOfExperts
from llmspec.parts.mlps.reglu import ReGLU
from llmspec.parts.mlps.relu import ReLU
from llmspec.parts.mlps.relu2 import ReLU2
from llmspec.parts.mlps.silu import SiLU
from llmspec.parts.mlps.swiglu import SwiGLU

TABLE |= {
    "relu": ReLU,
    "relu2": ReLU2,
    "gelu": GELU,
    "silu": SiLU,
    "reglu": ReGLU,
    "swiglu": SwiGLU,
    "geglu": GeGLU,
    "mixture_of_experts": MixtureOfExperts,
}

__all__ = ["MLP", "TABLE", "FeedForward"]
