"""Which tokens a token may look at."""

from llmspec.parts.masks.base import Mask
from llmspec.parts.masks.bidirectional import Bidirectional
from llmspec.parts.masks.causal import Causal
from llmspec.parts.masks.prefix import Prefix

TABLE: dict[str, type[Mask]] = {"causal": Causal, "bidirectional": Bidirectional, "prefix": Prefix}

__all__ = ["TABLE", "Mask"]
