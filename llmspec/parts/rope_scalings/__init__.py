"""How rotary positions are stretched to contexts longer than those of their training."""

from llmspec.parts.rope_scalings.base import RopeScaling
from llmspec.parts.rope_scalings.dynamic import Dynamic
from llmspec.parts.rope_scalings.linear import LinearScaling
from llmspec.parts.rope_scalings.llama3 import Llama3
from llmspec.parts.rope_scalings.yarn import Yarn

TABLE: dict[str, type[RopeScaling]] = {
    "linear": LinearScaling,
    "dynamic": Dynamic,
    "yarn": Yarn,
    "llama3": Llama3,
}

__all__ = ["TABLE", "RopeScaling"]
