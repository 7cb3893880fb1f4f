"""The libraries that a pickle needs when it is loaded: what a pipeline is made of is written in it by name."""

from collections.abc import Iterable

from offline_kit.checkpoints.pickle_streams import read_top_modules
from offline_kit.project.types import Checkpoint, CheckpointKind

_PICKLES = frozenset(
    {CheckpointKind.PICKLE, CheckpointKind.JOBLIB, CheckpointKind.OTHER}
)  # compressed ones too
_DISTRIBUTIONS = {
    "boruta": "boruta",
    "catboost": "catboost",
    "category_encoders": "category-encoders",
    "dill": "dill",
    "feature_engine": "feature-engine",
    "flaml": "flaml",
    "gensim": "gensim",
    "hdbscan": "hdbscan",
    "imblearn": "imbalanced-learn",
    "implicit": "implicit",
    "interpret": "interpret",
    "joblib": "joblib",
    "lifelines": "lifelines",
    "lightgbm": "lightgbm",
    "mlxtend": "mlxtend",
    "ngboost": "ngboost",
    "nltk": "nltk",
    "numpy": "numpy",
    "pandas": "pandas",
    "pmdarima": "pmdarima",
    "polars": "polars",
    "prophet": "prophet",
    "pygam": "pygam",
    "pytorch_tabnet": "pytorch-tabnet",
    "rgf": "rgf-python",
    "scikeras": "scikeras",
    "scipy": "scipy",
    "sentence_transformers": "sentence-transformers",
    "sklearn": "scikit-learn",
    "sklearn_pandas": "sklearn-pandas",
    "sklego": "scikit-lego",
    "skopt": "scikit-optimize",
    "skorch": "skorch",
    "sktime": "sktime",
    "spacy": "spacy",
    "statsmodels": "statsmodels",
    "surprise": "scikit-surprise",
    "tabpfn": "tabpfn",
    "tsfresh": "tsfresh",
    "umap": "umap-learn",
    "xgboost": "xgboost",
}
"""Distributions of the libraries whose objects are pickled, by import name; any other may be the user's own."""


def list_pickle_packages(files: Iterable[Checkpoint]) -> tuple[str, ...]:
    """Return the known distributions whose objects these files hold, sorted; files that are no pickles have none."""
    tops = {top for file in files if file.kind in _PICKLES for top in read_top_modules(file.path)}
    return tuple(sorted(_DISTRIBUTIONS[top] for top in tops if top in _DISTRIBUTIONS))
