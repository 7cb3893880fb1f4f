"""A competition at a local Kaggle, a finished notebook, and submissions of it, here or in a process that can be killed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import NewNotebook, NotebookSources, Submission
from offline_kit.kaggle.client.client import KaggleClient
from offline_kit.kaggle.push import submit as submissions
from offline_kit.kaggle.push.submission_ledger import SubmissionLedger
from offline_kit.kaggle.push.submission_plan import SubmitPlan, SubmitRequest
from offline_kit.kaggle.push.submit import SubmissionResult
from tests.support.competitions import ANSWER, competition
from tests.support.local_kaggle import HASTY, KERNEL, Bench, notebook, serving
from tests.support.pushing import EAGER, PushSettings, access, client, ways
from tests.support.warm_python import client_python

SLUG = "small-digits"
REQUEST = SubmitRequest(competition=SLUG, notebook=KERNEL, version=1, message="first try")


@dataclass(frozen=True)
class Contest:
    """A competition, and alice who takes part."""

    bench: Bench
    alice: KaggleClient
    grace: float = EAGER.visibility_timeout

    @property
    def ways(self) -> PushSettings:
        return ways(self.bench, replace(EAGER, visibility_timeout=self.grace))

    @property
    def ledger(self) -> SubmissionLedger:
        return SubmissionLedger(self.ways.state_folder / "ledger.jsonl")

    def finished(self, *cells: str, **more: Any) -> int:
        """Push a notebook and wait for its run; return the version."""
        sources = NotebookSources(competitions=(SLUG,), datasets=more.pop("datasets", ()))
        text = json.dumps(notebook(*(cells or (ANSWER,))))
        new = NewNotebook(ref=KERNEL, title="My inference", text=text, sources=sources, **more)
        version = self.alice.save_notebook(new).version
        self.bench.until(
            lambda: (run := self.alice.get_notebook_run(KERNEL, version)) is not None and ended(run.state)
        )
        return version

    def rules(self, extra: str) -> None:
        """Change the competition."""
        self.bench.kaggle.catalog.add_competition(competition(self.bench.folder, extra))

    def plan(self, **changes: Any) -> SubmitPlan:
        """Plan the submission of the first version, with changes to the request."""
        request = replace(REQUEST, **changes)
        return submissions.plan_submission(request, access(self.alice, self.ways), self.ledger)

    def submit(
        self, plan: SubmitPlan | None = None, report: Reporter = SILENT, **changes: Any
    ) -> SubmissionResult:
        """Submit."""
        made = plan or self.plan(**changes)
        return submissions.submit_version(made, access(self.alice, self.ways, report), self.ledger)

    def wait(self, ref: int, report: Reporter = SILENT, **more: Any) -> Submission:
        """Wait for the score."""
        return submissions.wait_for_score(
            ref, access(self.alice, self.ways, report), **{"ledger": self.ledger, **more}
        )

    def made(self) -> list[dict[str, Any]]:
        """Return what the server has, shown or not."""
        return list(self.bench.kaggle.store.iter_records("submissions"))


def ended(state: str) -> bool:
    """Whether a run has come to its end."""
    return state in ("complete", "error")


@contextmanager
def contest(folder: Path, grace: float = EAGER.visibility_timeout, **settings: Any) -> Iterator[Contest]:
    """Serve a competition; what is sent may take `grace` seconds to show."""
    with serving(folder, replace(HASTY, **settings)) as bench, client(bench) as alice:
        bench.kaggle.catalog.add_competition(competition(folder))
        yield Contest(bench, alice, grace)


def submit_elsewhere(held: Contest, request: SubmitRequest = REQUEST) -> "subprocess.Popen[bytes]":
    """Start a submission in a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from offline_kit.kaggle.push import submit as submissions\n"
        "from offline_kit.kaggle.push.submission_ledger import SubmissionLedger\n"
        "from offline_kit.kaggle.push.submission_plan import SubmitRequest\n"
        "from offline_kit.kaggle.client.client import KaggleClient\n"
        "from offline_kit.kaggle.client.session import KaggleEndpoint\n"
        "from tests.support.pushing import EAGER, BRISK, PushSettings, access\n"
        "ways = PushSettings(state_folder=Path(sys.argv[2]), poll_policy=EAGER, retry_policy=BRISK)\n"
        "ledger = SubmissionLedger(ways.state_folder / 'ledger.jsonl')\n"
        f"request = {request!r}\n"
        "where = KaggleEndpoint(local=sys.argv[1], username='alice', key='key-of-alice')\n"
        "with KaggleClient(where, patience=BRISK, python=sys.argv[3]) as kaggle:\n"
        "    plan = submissions.plan_submission(request, access(kaggle, ways), ledger)\n"
        "    made = submissions.submit_version(plan, access(kaggle, ways), ledger)\n"
        "    submissions.wait_for_score(made.ref, access(kaggle, ways), ledger=ledger)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, held.bench.server.url, str(held.ways.state_folder), client_python()],
        cwd=Path(__file__).parents[2],
    )
