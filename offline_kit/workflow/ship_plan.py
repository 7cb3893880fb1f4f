"""What `ship` would do, as far as it can be known without building or sending anything."""

from dataclasses import dataclass

from offline_kit.core.errors import ProjectError
from offline_kit.core.report import SILENT, Reporter
from offline_kit.kaggle.client.api_types import Competition
from offline_kit.kaggle.push.dataset_plan import PushPlan
from offline_kit.kaggle.push.push_notebook import NotebookPlan
from offline_kit.kaggle.push.submission_ledger import SubmissionTag
from offline_kit.kaggle.push.submission_plan import SubmitPlan, SubmitRequest
from offline_kit.project.config import Config
from offline_kit.project.types import Kit
from offline_kit.workflow import kaggle_session, pipeline, ship
from offline_kit.workflow import outdated as stale
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.ship import ShipOptions


@dataclass(frozen=True, kw_only=True)
class ShipPlan:
    """What each step would do now."""

    build: pipeline.BuildPlan
    """What a build would put into the kit."""
    kit: Kit
    """The kit that a build would make, which the steps below are about."""
    outdated: str
    """The id of the existing kit that would be replaced; empty if it stays or there is none."""
    changed: tuple[str, ...]
    """What a build would take otherwise than that kit has it."""
    rehearsal: str
    """What would become of the rehearsal."""
    data: PushPlan
    """The push of the kit's data."""
    notebook: NotebookPlan
    """The push of its notebook."""
    disturbed: tuple[str, ...]
    """Submissions under way that new data would spoil."""
    submission: SubmitPlan
    """What would be submitted; of version 0 where that has to be pushed or run first."""


def plan_ship(
    config: Config, port: KaggleSession, orders: ShipOptions, report: Reporter = SILENT
) -> ShipPlan:
    """Look at everything, write no kit and send nothing; raises what stands against shipping already now."""
    contest = ship.competition_of(port)
    try:
        existing: Kit | None = kaggle_session.check_kit(pipeline.kit_of(config))
    except ProjectError:
        existing = None  # none yet, or a damaged one, which a build replaces
    with pipeline.outline_build(config, upgrade=orders.upgrade, report=report) as (built, kit):
        changed = stale.list_changes(config, existing, built.freeze) if existing else ()
        stands = existing if existing and not changed and existing.id == kit.id else None
        data = kaggle_session.plan_data(port, kit, orders.data, report)
        notebook = kaggle_session.plan_notebook(port, kit, report)
        return ShipPlan(
            build=built,
            kit=kit,
            outdated=existing.id if existing and not stands else "",
            changed=changed,
            rehearsal=_plan_rehearsal(config, stands, orders),
            data=data,
            notebook=notebook,
            disturbed=kaggle_session.describe_disturbed(port, kit, data),
            submission=_plan_submission(port, kit, notebook, contest, orders, report),
        )


def _plan_rehearsal(config: Config, kit: Kit | None, orders: ShipOptions) -> str:
    if orders.rehearsal is None:
        return "none, as asked"
    if kit and pipeline.passed_rehearsal(config, kit, orders.rehearsal):
        return "it passed already"
    return f"to be done, with --env {orders.rehearsal.env}"


def _plan_submission(
    port: KaggleSession,
    kit: Kit,
    notebook: NotebookPlan,
    contest: Competition,
    orders: ShipOptions,
    report: Reporter,
) -> SubmitPlan:
    """Return the submission of a version whose run is complete, else what is known of it before."""
    if notebook.version:
        run = port.kaggle.get_notebook_run(notebook.notebook.ref, notebook.version)
        if run and run.state == "complete":
            request = ship.request_of(port, kit, notebook.version, orders.sending)
            return ship.plan_submission(port, request, report)
    ref = notebook.notebook.ref
    config = port.config
    return SubmitPlan(
        request=SubmitRequest(
            competition=contest.slug, notebook=ref, version=0, file=config.notebook.submission
        ),
        competition=contest,
        mark=SubmissionTag(notebook=ref, version=0, file=config.notebook.submission),
        parts={},
        limits=port.kaggle.get_submission_limits(contest.slug),
        server_name=port.account.server_name,
    )
