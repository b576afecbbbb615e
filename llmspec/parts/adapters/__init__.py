"""Small trained tensors beside the weights of a model that stay as they are."""

from llmspec.core.table import Table
from llmspec.parts.adapters.base import Adapter

TABLE = Table[Adapter](
    __name__,
    {
        "lora": "LoRA",
    },
)

__all__ = ["TABLE", "Adapter"]
