"""Room on the disks that a build writes to."""

import os
import shutil
from pathlib import Path

from offline_kit.core.files import format_size
from offline_kit.workflow.checks.check_types import CheckContext, CheckResult, fail_result, warn_result

LEAST = 500_000_000
"""Bytes below which hardly any build gets through."""
COMFORTABLE = 5_000_000_000
"""Bytes that downloads, an environment of the image's versions, and a kit take together."""


def run_check(ground: CheckContext) -> CheckResult:
    """Look at the places of the kit and of the cache: whether they can be written to, and what is free there."""
    out = ground.config.out if ground.config else ground.project
    places = {_existing_parent(ground.cache), _existing_parent(out)}
    closed = [str(place) for place in sorted(places) if not place.is_dir() or not os.access(place, os.W_OK)]
    if closed:
        return fail_result(
            f"cannot write below {', '.join(map(repr, closed))}",
            "make it writable, or choose another place with --out or OFFLINE_KIT_CACHE",
        )
    free = {place: shutil.disk_usage(place).free for place in places}
    tightest = min(free, key=lambda place: (free[place], str(place)))
    said = f"{format_size(free[tightest])} free below '{tightest}'"
    remedy = "free some space ('offline-kit cache prune' may help), or set OFFLINE_KIT_CACHE to another disk"
    if free[tightest] < LEAST:
        return fail_result(said, remedy)
    return warn_result(f"only {said}", remedy) if free[tightest] < COMFORTABLE else CheckResult(what=said)


def _existing_parent(place: Path) -> Path:
    """Return the nearest thing above a place that is there."""
    return next(above for above in (place, *place.parents) if above.exists())
