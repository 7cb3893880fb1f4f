"""Notebooks of the template `predict`: rendered for members that a test makes, and run as Kaggle would."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_kit.checkpoints import members
from offline_kit.checkpoints.discovery import collect_checkpoints
from offline_kit.kit import layout
from offline_kit.notebook.rendering import RenderedNotebook, render_notebook
from offline_kit.project.types import Checkpoint, NotebookSettings
from tests.support.kits import Workshop
from tests.support.rendering import IMAGE, kit_of, run_cells, target

COMPETITION = "some-competition"


@dataclass
class Stage:
    """A project with trained files, the competition's data, and the notebook of both."""

    folder: Path
    code: dict[str, str] = field(default_factory=dict)
    """Source files of the kit."""

    @property
    def data(self) -> Path:
        """Where the competition's data lies."""
        place = self.folder / "input" / "competitions" / COMPETITION
        place.mkdir(parents=True, exist_ok=True)
        return place

    @property
    def project(self) -> Path:
        """Where the trained files lie."""
        place = self.folder / "project"
        place.mkdir(exist_ok=True)
        return place

    def found(self, *patterns: str) -> tuple[Checkpoint, ...]:
        """Return the project's files of these patterns."""
        return collect_checkpoints(self.project, patterns, cache=self.folder / "cache")

    def notebook(
        self, checkpoints: str = "models/*", preprocessing: str = "", **settings: Any
    ) -> RenderedNotebook:
        """Mount a kit with the project's files and render its notebook."""
        said = NotebookSettings(**{"template": "predict", **settings})
        weights = self.found(checkpoints)
        beside = self.found(preprocessing) if preprocessing else ()
        workshop = Workshop()
        inside = layout.name_checkpoints(weights)
        for each in weights:
            workshop.add(inside[each.original], each.path.read_bytes(), "checkpoint")
        for each in beside:
            workshop.add(
                f"checkpoints/preprocessing/{each.original}", each.path.read_bytes(), "preprocessing"
            )
        for name, text in self.code.items():
            workshop.add(f"code/{name}", text.encode(), "source")
        workshop.plan["roots"] = ["."] if self.code else []
        about = target(
            self.project,
            competition=COMPETITION,
            members=members.resolve_members(said, weights),
            preprocessing=layout.name_preprocessing_files(beside),
        )
        return render_notebook(kit_of(workshop, self.folder), said, IMAGE, about)

    def run(self, rendered: RenderedNotebook) -> str:
        """Run the notebook and return what it printed."""
        return run_cells(rendered, self.folder)

    def submission(self) -> Any:
        """Return what the notebook wrote."""
        import pandas as pd

        return pd.read_csv(self.folder / "working" / "submission.csv", dtype={"id": str})
