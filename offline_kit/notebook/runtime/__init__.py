"""The code that restores a kit and predicts inside the notebook: standard library at import, Python 3.10 or newer.

These files travel in the kit as the package `offline_kit_runtime`. The notebook's first cell finds and checks them there
and imports them, so they import only each other.
"""

from .kit_install import restore_kit as open  # noqa: A004 - read as `offline_kit_runtime.open`
from .kit_recorder import finish_recording, start_recording
from .kit_replay import open_recorded
from .kit_sources import open_adopted

__all__ = ["finish_recording", "open", "open_adopted", "open_recorded", "start_recording"]
