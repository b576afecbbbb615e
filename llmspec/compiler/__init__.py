"""Spec -> Plan: an ordered tuple of pure passes over a frozen draft. Allocates nothing, imports no tensor library."""

from llmspec.compiler.checks import Check, pending, plan_checks, refuse
from llmspec.compiler.compile import PASSES, check_sections, compile_spec, complete, unread
from llmspec.compiler.plan import Measured, Plan

__all__ = [
    "PASSES",
    "Check",
    "Measured",
    "Plan",
    "check_sections",
    "compile_spec",
    "complete",
    "pending",
    "plan_checks",
    "refuse",
    "unread",
]
