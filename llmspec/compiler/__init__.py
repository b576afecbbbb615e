"""Spec -> Plan: an ordered tuple of pure passes over a frozen draft. Allocates nothing, imports no tensor library."""

from llmspec.compiler.compile import PASSES, check_sections, compile_spec, complete
from llmspec.compiler.plan import Measured, Plan

__all__ = ["PASSES", "Measured", "Plan", "check_sections", "compile_spec", "complete"]
