"""Small trained tensors beside the weights of a model that stay as they are."""

from llmspec.parts.adapters.base import Adapter
from llmspec.parts.adapters.lora import LoRA

TABLE: dict[str, type[Adapter]] = {"lora": LoRA}

__all__ = ["TABLE", "Adapter"]
