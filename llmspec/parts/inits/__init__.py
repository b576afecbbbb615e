"""How weights are drawn before step 0."""

from llmspec.parts.inits.base import Initializer
from llmspec.parts.inits.fan_in import FanIn
from llmspec.parts.inits.normal import Normal

TABLE: dict[str, type[Initializer]] = {"normal": Normal, "fan_in": FanIn}

__all__ = ["TABLE", "Initializer"]
