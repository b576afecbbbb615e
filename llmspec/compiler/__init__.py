"""Spec -> Plan: an ordered tuple of pure passes over a frozen draft. Allocates nothing, imports no tensor library."""

from llmspec.compiler.compile import PASSES, check_sections, compile_spec, complete, unread
from llmspec.compiler.plan import Measured, Plan
from llmspec.compiler.proofs import Proof, pending, prove, refuse

__all__ = [
    "PASSES",
    "Measured",
    "Plan",
    "Proof",
    "check_sections",
    "compile_spec",
    "complete",
    "pending",
    "prove",
    "refuse",
    "unread",
]
