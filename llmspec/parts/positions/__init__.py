"""How the network knows the places of its tokens."""

from llmspec.parts.positions.alibi import Alibi
from llmspec.parts.positions.base import Hooks, Position
from llmspec.parts.positions.learned import Learned
from llmspec.parts.positions.none import NoPosition
from llmspec.parts.positions.rope import Rope
from llmspec.parts.positions.sinusoidal import Sinusoidal

TABLE: dict[str, type[Position]] = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rope": Rope,
    "alibi": Alibi,
    "none": NoPosition,
}

__all__ = ["TABLE", "Hooks", "Position"]
