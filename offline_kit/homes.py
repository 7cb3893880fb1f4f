"""Where the parts of a kit are on Kaggle: in datasets, but for those that have another home."""

from offline_kit.chained import house
from offline_kit.config import Config

MODEL_PART = "checkpoints"
"""The part that may be a model."""
VARIATION = "other/checkpoints"
"""Framework and variation of the model that holds a kit's checkpoints."""
_NOBODY = "you"  # the owner is known at the push


def of(config: Config) -> dict[str, str]:
    """Return the home of each part that is no dataset, by the part's name: "notebook:owner/slug", "model:...".

    A model of ours stands here as version 1: it has its version when it is pushed.
    """
    record = house.read(config.project)
    found = {house.PART: record.home} if record and record.files else {}
    if config.publish_model:
        owner, _, slug = config.publish_model.rpartition("/")
        found[MODEL_PART] = f"model:{owner or _NOBODY}/{slug}/{VARIATION}/1"
    return found
