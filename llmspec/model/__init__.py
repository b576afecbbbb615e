"""Plan -> tinygrad graphs: weights, forward pass, and the steps that run under TinyJit."""

import llmspec.backends  # noqa: F401  (before anything here imports tinygrad, which reads the environment)
