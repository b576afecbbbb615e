"""How rotary positions are stretched to contexts longer than those of their training."""

from llmspec.core.table import Table
from llmspec.parts.rope_scalings.base import RopeScaling

TABLE = Table[RopeScaling](
    __name__,
    {
        "linear": "LinearScaling",
        "dynamic": "Dynamic",
        "yarn": "Yarn",
        "llama3": "Llama3",
    },
)

__all__ = ["TABLE", "RopeScaling"]
