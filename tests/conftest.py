"""What every test shares: tests/ on the path for its helper modules, and a quiet, repeatable hypothesis."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

settings.register_profile(
    "llmspec", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("llmspec")
# Kernels of many tiny shapes are compiled once and kept between test runs, apart from the user's own.
os.environ.setdefault("NO_COLOR", "1")
