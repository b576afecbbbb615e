"""How the network knows the places of its tokens."""

from llmspec.parts.positions.alibi import Alibi
from llmspec.parts.positions.base import Hooks, Position
from llmspec.parts.positions.learned import Learned
from llmspec.parts.positions.none import NoPosition
from llmspec.parts.positions.rope import Rope
from llmspec.parts.positions.sinusoidal import Sinusoidal
from llmspec.parts.positions.t5_relative import T5Relative

TABLE: dict[str, type[Position]] = {
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "rope": Rope,
    "alibi": Alibi,
    "t5_relative": T5Relative,
    "none": NoPosition,
}

__all__ = ["TABLE", "Hooks", "Position"]
