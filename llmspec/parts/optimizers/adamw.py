"""AdamW (Loshchilov & Hutter 2019, algorithm 2)."""

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.optimizers.adam import Adam


class AdamW(Adam):
    """Adam with weight decay decoupled from the gradient, as torch.optim.AdamW."""

    kind: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: float = Field(0.1, ge=0)
    """Decay of matrices and embeddings; norms and biases are never decayed."""
    decoupled: ClassVar[bool] = True
