"""How the network knows the places of its tokens."""

from llmspec.core.table import Table
from llmspec.parts.positions.base import Hooks, Position

TABLE = Table[Position](
    __name__,
    {
        "learned": "Learned",
        "sinusoidal": "Sinusoidal",
        "rope": "Rope",
        "alibi": "Alibi",
        "t5_relative": "T5Relative",
        "none": "NoPosition",
    },
)

__all__ = ["TABLE", "Hooks", "Position"]
