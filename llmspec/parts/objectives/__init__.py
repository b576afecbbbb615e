from llmspec.parts.objectives.cross_entropy import CrossEntropy

TABLE: dict[str, type[CrossEntropy]] = {"cross_entropy": CrossEntropy}

__all__ = ["TABLE", "CrossEntropy"]
