"""How the local Kaggle behaves: how late effects show, how long work takes, what is allowed."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class LocalKaggleSettings:
    """One local Kaggle; all times in seconds."""

    visible_after: float = 1.0
    """Until then a new dataset answers 403, and a new version is not there: the old one still says READY."""
    processing: float = 3.0  # from visible to READY, through all the states that the service has
    numbers_failed: bool = True
    """Whether a dataset tells a number for its current version although none was ever READY."""
    queued: float = 0.5  # how long a pushed notebook waits before it runs
    sessions: int = 2  # notebook runs at once for one account; a further push is refused
    scoring: float = 1.0  # from the end of a hidden run to its score
    layout: str = "new"  # mounts below /kaggle/input: "new" (datasets/<owner>/<slug>) or "old" (<slug>)
    kinds_in_sources: bool = False
    """Whether a notebook tells its sources with their kind in front: "dataset/<owner>/<slug>"."""
    error_shape: str = "nested"
    """Bodies of errors: "nested" as the live service, "flat" as the client understands, "html" or "empty"."""

    def with_delays(self, factor: float) -> "LocalKaggleSettings":
        """Return settings under which everything takes `factor` times as long to show or to be done."""
        delays = ("visible_after", "processing", "queued", "scoring")
        return replace(self, **{name: getattr(self, name) * factor for name in delays})
