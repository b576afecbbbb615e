"""C functions, their compiler, and what makes tinygrad a guest that changes nothing of its host process."""

from llmspec.kernels import shield

shield.stand()
