"""The package imports on every system."""

import importlib
import pkgutil

import offline_kit


def test_every_module_imports() -> None:
    """No module needs more than the tool's own dependencies, or a system that it does not run on."""
    for module in pkgutil.walk_packages(offline_kit.__path__, "offline_kit."):
        importlib.import_module(module.name)
