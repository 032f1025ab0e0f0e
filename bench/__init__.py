"""steerbench: should I steer this model or just prompt it?

The public names; nothing is imported until it is asked for, so `bench --help` stays instant.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "api": "Backend Bound Context Detector Fitted Judge Method Rate Task",
    "registry": "backend judge method task",
    "schema": "BenchError Completion Concept Example Protocol Request Sample Sampling Train UsageError Verdict digest",
    "steering": "Add Clamp DenseDelta Gate LowRank LowRankDelta Project Prompt RotationDelta Span Steering",
}
_WHERE = {name: module for module, names in _HOME.items() for name in names.split()}
__version__ = "0.1.0"
__all__ = [*sorted(_WHERE), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"bench.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
