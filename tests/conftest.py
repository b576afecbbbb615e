"""What every test shares: tests/ on the path for its helper modules, and a quiet, repeatable hypothesis."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

CALM = {"deadline": None, "print_blob": True,
        "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("llmspec", max_examples=50, **CALM)
settings.register_profile("thorough", max_examples=1000, **CALM)
# LLMSPEC_HYPOTHESIS=thorough draws twenty times as many examples, for a night or for a change of heart.
settings.load_profile(os.environ.get("LLMSPEC_HYPOTHESIS", "llmspec"))
os.environ.setdefault("NO_COLOR", "1")
