"""How weights are drawn before step 0."""

from llmspec.core.table import Table
from llmspec.parts.inits.base import Initializer

TABLE = Table[Initializer](
    __name__,
    {
        "normal": "Normal",
        "fan_in": "FanIn",
    },
)

__all__ = ["TABLE", "Initializer"]
