"""What `ship` would do, as far as it can be known without building or sending anything."""

from dataclasses import dataclass

from offline_kit import pipeline, ship, shipping, stale
from offline_kit.config import Config
from offline_kit.errors import ProjectError
from offline_kit.kaggle_gateway.nouns import Competition
from offline_kit.model import Kit
from offline_kit.push.dataset_plan import PushPlan
from offline_kit.push.notebooks import NotebookPlan
from offline_kit.push.submission_marks import Mark
from offline_kit.push.submission_plan import SubmitPlan, SubmitRequest
from offline_kit.report import SILENT, Reporter
from offline_kit.ship import Orders
from offline_kit.shipping import Port


@dataclass(frozen=True, kw_only=True)
class ShipPlan:
    """What each step would do now."""

    build: pipeline.Plan
    """What a build would put into the kit."""
    kit: Kit | None
    """The kit as it lies there, which the steps below are about; None where none was built yet, or a new one would be."""
    outdated: str
    """The id of the kit that lies there and would be replaced; empty where it stands or there is none."""
    changed: tuple[str, ...]
    """What a build would take otherwise than that kit has it."""
    rehearsal: str
    """What would become of the rehearsal."""
    data: PushPlan | None
    """The push of the kit's data; None without a kit."""
    notebook: NotebookPlan | None
    """The push of its notebook; None without a kit."""
    disturbed: tuple[str, ...]
    """Submissions under way that new data would spoil."""
    submission: SubmitPlan
    """What would be submitted; of version 0 where that has to be pushed or run first."""


def plan(config: Config, port: Port, orders: Orders, report: Reporter = SILENT) -> ShipPlan:
    """Look at everything, write no kit and send nothing; raises what stands against shipping already now."""
    contest = ship.competition_of(port)
    built = pipeline.plan(config, upgrade=orders.upgrade, report=report)
    try:
        kit = shipping.checked(pipeline.kit_of(config))
    except ProjectError as error:
        report.note(f"{error.what}: what would be pushed is known when it is built")
        kit = None
    changed = stale.changes(config, kit, built.freeze) if kit else ()
    outdated, kit = (kit.id, None) if kit and changed else ("", kit)
    data = shipping.plan_data(port, kit, orders.data, report) if kit else None
    notebook = shipping.plan_notebook(port, kit, report) if kit else None
    return ShipPlan(
        build=built,
        kit=kit,
        outdated=outdated,
        changed=changed,
        rehearsal=_rehearsal(config, kit, orders),
        data=data,
        notebook=notebook,
        disturbed=shipping.disturbed(port, kit, data) if kit and data else (),
        submission=_submission(port, kit, notebook, contest, orders, report),
    )


def _rehearsal(config: Config, kit: Kit | None, orders: Orders) -> str:
    if orders.rehearsal is None:
        return "none, as asked"
    if kit and pipeline.rehearsed(config, kit, orders.rehearsal):
        return "it passed already"
    return f"to be done, with --env {orders.rehearsal.env}"


def _submission(
    port: Port,
    kit: Kit | None,
    notebook: NotebookPlan | None,
    contest: Competition,
    orders: Orders,
    report: Reporter,
) -> SubmitPlan:
    """Return the submission of a version whose run is complete, else what is known of it before."""
    if kit and notebook and notebook.version:
        run = port.kaggle.run(notebook.new.ref, notebook.version)
        if run and run.state == "complete":
            request = ship.request_of(port, kit, notebook.version, orders.sending)
            return ship.plan_submission(port, request, report)
    ref = notebook.new.ref if notebook else ""
    config = port.config
    return SubmitPlan(
        request=SubmitRequest(
            competition=contest.slug, notebook=ref, version=0, file=config.notebook.submission
        ),
        competition=contest,
        mark=Mark(notebook=ref, version=0, file=config.notebook.submission),
        parts={},
        limits=port.kaggle.limits(contest.slug),
        place=port.account.place,
    )
