"""What phases minimise."""

from llmspec.parts.objectives.base import Objective
from llmspec.parts.objectives.cross_entropy import CrossEntropy

TABLE: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy}

__all__ = ["TABLE", "CrossEntropy", "Objective"]
