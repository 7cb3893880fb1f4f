"""Takes a project and its checkpoints to an offline Kaggle code competition."""

__version__ = "0.2.0"
