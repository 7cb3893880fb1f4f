"""An image as it is: captured by a notebook on Kaggle, or of the environment that runs here."""

import tempfile
import tomllib
from pathlib import Path

from offline_kit.core import files
from offline_kit.core.report import SILENT, Reporter
from offline_kit.notebook.runtime import kit_capture
from offline_kit.project import images
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.workflow import build_remotely as chained_build
from offline_kit.workflow.kaggle_session import KaggleSession
from offline_kit.workflow.remote_build import build_job
from offline_kit.workflow.remote_build.build_job import RemoteJob


def capture_here() -> str:
    """Return the image file of the running environment, for whoever runs offline-kit in the image itself."""
    return kit_capture.format_image_file(
        kit_capture.capture_image("captured-here"), platform_name="this machine"
    )


def capture_on_kaggle(config: Config, port: KaggleSession, report: Reporter = SILENT) -> str:
    """Return the image file of the machine that the configuration's accelerator gets today.

    A private notebook without internet and without any input is run for it, anew each time. Raises what
    pushes and runs raise.
    """
    where = "the local Kaggle" if port.local else "Kaggle"
    new = build_job.new_notebook(RemoteJob(config=config, username=port.account.username, where=where))
    _, finished = chained_build.run_job(port, new, upgrade=True, report=report)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as name:
        return chained_build.image_text(port, finished, Path(name), report)


def write_image(text: str, path: Path) -> Image:
    """Write an image file and return the image, as `--image` will read it."""
    files.write_atomic(path, text)
    return images.load_image(str(path.absolute()), accelerator="none", project=path.parent)


def name_of(text: str) -> str:
    """Return the name of the image that an image file describes."""
    return str(tomllib.loads(text)["name"])
