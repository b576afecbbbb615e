"""The spec language: YAML text with the place of every value -> a typed, frozen Spec."""

from llmspec.spec.dump import dump
from llmspec.spec.load import Loaded, SpecReading, load_spec, override_decoding, read_spec
from llmspec.spec.schema import Spec

__all__ = ["Loaded", "Spec", "SpecReading", "dump", "load_spec", "override_decoding", "read_spec"]
