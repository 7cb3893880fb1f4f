"""The notebook that looks at Kaggle's image, and makes the wheelhouse there: rendered, ready to be pushed."""

from dataclasses import dataclass

from offline_kit import __version__
from offline_kit.kaggle.client.api_types import NewNotebook
from offline_kit.notebook import rendering, scripts
from offline_kit.project.accelerators import find_machine_shape
from offline_kit.project.config import Config
from offline_kit.project.kaggle_names import TITLE_LENGTH, make_slug
from offline_kit.workflow.remote_build.build_request import RemoteRequest

TEMPLATE = "wheelhouse"
_RUNTIME = ("kit_capture", "kit_wheelhouse")


@dataclass(frozen=True, kw_only=True)
class RemoteJob:
    """A notebook to run on Kaggle, and its settings."""

    config: Config
    """Whose it is; the accelerator decides on the image."""
    username: str
    """Whose account runs it."""
    where: str
    """"Kaggle" or "the local Kaggle", for the image file."""
    asked: RemoteRequest | None = None
    """What to make; None: only the image is captured, with the internet off."""


def image_name(job: RemoteJob) -> str:
    """Return the name of the image that is captured."""
    kind = "gpu" if find_machine_shape(job.config.accelerator) else "cpu"
    return f"{'kaggle' if job.where == 'Kaggle' else 'local-kaggle'}-captured-{kind}"


def new_notebook(job: RemoteJob) -> NewNotebook:
    """Render the job's notebook: private, and with the internet on only if packages are to be downloaded."""
    words = " wheelhouse" if job.asked else " image"
    title = job.config.name[: TITLE_LENGTH[1] - len(words)].strip() + words
    shape = find_machine_shape(job.config.accelerator)
    return NewNotebook(
        ref=f"{job.username}/{make_slug(title)}",
        title=title,
        text=render_job(job, title),
        gpu=bool(shape),
        machine_shape=shape,
        internet=job.asked is not None,
    )


def render_job(job: RemoteJob, title: str) -> str:
    """Return the notebook's text."""
    wants = job.asked
    modules = _RUNTIME if wants else _RUNTIME[:1]
    facts = {
        "title": title,
        "project": job.config.name,
        "tool_version": __version__,
        "image_name": image_name(job),
        "where": job.where,
        "runtime": [{"name": name, "source": rendering.paste_module(name)} for name in modules],
        "requirements": list(wants.requirements) if wants else [],
        "constraints": list(wants.constraints) if wants else [],
        "preferred": dict(wants.preferred) if wants else {},
        "protected": list(wants.protected) if wants else [],
        "include": list(wants.include) if wants else [],
        "exclude": list(wants.exclude) if wants else [],
    }
    return scripts.to_notebook(scripts.fill_template(TEMPLATE, job.config.project, facts))
