"""Backends: plain tinygrad, C for CPUs, and what makes tinygrad a guest that changes nothing of its host process."""

from llmspec.backends import shield

shield.stand()
