"""Normalisations."""

from llmspec.parts.norms.base import Norm
from llmspec.parts.norms.layernorm import LayerNorm
from llmspec.parts.norms.rmsnorm import RMSNorm

TABLE: dict[str, type[Norm]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}

__all__ = ["TABLE", "Norm"]
