"""All calls of Kaggle's API, on top of its official client."""

from offline_kit.kaggle.client.competitions import CompetitionCalls
from offline_kit.kaggle.client.datasets import DatasetCalls, ModelCalls
from offline_kit.kaggle.client.notebooks import NotebookCalls


class KaggleClient(DatasetCalls, ModelCalls, NotebookCalls, CompetitionCalls):
    """All calls of Kaggle's API, on top of its official client."""
