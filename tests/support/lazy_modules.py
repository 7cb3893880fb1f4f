"""Large libraries that a test file imports when its first test uses them, and not when it is collected.

Each worker of pytest-xdist collects all files, and torch, scikit-learn and pandas take seconds each.
"""

import gc
import sys
from typing import Any

import pytest


class LazyModule:
    """A module that is imported on first use; a test that uses it is skipped where it is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if (
            attribute.startswith("_") and attribute != "__version__"
        ):  # what pytest asks each object of a test file for
            raise AttributeError(attribute)
        is_new = self._name not in sys.modules
        module = pytest.importorskip(self._name)
        if is_new:
            gc.freeze()  # tests that free memory by gc.collect() would look through all of it each time
        return getattr(module, attribute)


torch: Any = LazyModule("torch")
joblib: Any = LazyModule("joblib")
linear_model: Any = LazyModule("sklearn.linear_model")
pandas: Any = LazyModule("pandas")
safetensors: Any = LazyModule("safetensors.torch")
