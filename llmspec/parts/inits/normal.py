"""One standard deviation for every matrix (Radford et al. 2018, section 4.1)."""

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.base import TensorSpec
from llmspec.parts.inits.base import Initializer


class Normal(Initializer):
    """Normal with the same standard deviation for embeddings and matrices, GPT-2's 0.02."""

    kind: Literal["normal"] = "normal"
    formula: ClassVar[str] = "N(0, std²), over √(2·layers) for what writes into the residual stream"
    std: float = Field(0.02, gt=0)
    """Standard deviation."""

    def spread(self, tensor: TensorSpec) -> float:
        return self.std
