"""Where NVIDIA's compiler lies: its run-time compiler comes in Python's packages, apart from the driver."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

LIBRARIES = {"NVRTC_PATH": "libnvrtc.so.*", "NVJITLINK_PATH": "libnvJitLink.so.*"}
"""tinygrad's variables for NVIDIA's compiler, and what wheels (of the extra `cuda`, of PyTorch) call its files."""
REMEDY = "pip install 'llmspec[cuda]'"


def libraries() -> dict[str, str]:
    """Variables that lead tinygrad to NVIDIA's compiler in Python's packages; what the user has set stays."""
    found = find_spec("nvidia")
    folders = [Path(p) for p in found.submodule_search_locations or ()] if found else []
    named = {
        variable: next((str(f) for folder in folders for f in sorted(folder.glob(f"*/lib/{pattern}"))), "")
        for variable, pattern in LIBRARIES.items()
    }
    headers = next((f.parent.parent for folder in folders for f in folder.glob("*/include/cuda_fp16.h")), None)
    if headers is not None:
        named["CUDA_PATH"] = str(headers)
    return {k: v for k, v in named.items() if v and not os.environ.get(k)}
