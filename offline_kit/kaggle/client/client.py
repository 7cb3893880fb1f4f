"""All calls of Kaggle's API, on top of its official client."""

import sys
from collections.abc import Mapping

from offline_kit.core.retry import PATIENT, RetryPolicy
from offline_kit.kaggle.client.api_types import Account
from offline_kit.kaggle.client.calls import PAGE, READ_SECONDS
from offline_kit.kaggle.client.competitions import CompetitionCalls
from offline_kit.kaggle.client.datasets import DatasetCalls, ModelCalls
from offline_kit.kaggle.client.endpoint import KaggleEndpoint
from offline_kit.kaggle.client.notebooks import NotebookCalls
from offline_kit.kaggle.client.session import ClientSession


class KaggleClient(DatasetCalls, ModelCalls, NotebookCalls, CompetitionCalls):
    """All calls of Kaggle's API, on top of its official client."""

    def __init__(
        self,
        endpoint: KaggleEndpoint,
        *,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        patience: RetryPolicy = PATIENT,
        seconds: float = READ_SECONDS,
        page: int = PAGE,
    ) -> None:
        """`python` must have the kaggle package; `seconds` is the timeout of a read, `page` the items per page of a listing."""
        self._endpoint = endpoint
        session = ClientSession(endpoint, env=env, python=python)
        super().__init__(session, patience=patience, seconds=seconds, page=page)

    def __enter__(self) -> "KaggleClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close_session()

    def fetch_account(self) -> Account:
        """Return the account of the credentials; raises NotLoggedInError."""
        return self._session.fetch_account()

    def upload_proxies(self) -> Mapping[str, str] | None:
        """Return the proxies for uploads; None for those of the environment."""
        return self._endpoint.upload_proxies()
