"""The pictures of the test set in batches, in the order of the sample.

This file is part of offline-kit and is pasted into the notebooks that it renders.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_kit.notebook.runtime.kit_runtime import KitError
from offline_kit.notebook.runtime.kit_tasks import Batch, Sample, shown

PICTURES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
    | {".dcm", ".dicom", ".npy", ".npz"}
)
"""What counts as a picture of a test folder; other files do where an id of the sample names them."""


@dataclass
class Images:
    """The pictures, batch by batch; they can be gone through again for the next model."""

    files: dict[str, Path]
    """The picture of each id."""
    size: int
    """Pictures of a batch."""
    transform: Callable[[Path], Any] | None = None
    """Makes the model's input of a path; without it the model gets RGB pictures of PIL."""

    def __iter__(self) -> Iterator[Batch]:
        ids = list(self.files)
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            for start in range(0, len(ids), self.size):
                some = ids[start : start + self.size]
                read = list(pool.map(self.transform or open_rgb, [self.files[each] for each in some]))
                yield Batch(some, stacked(read))

    @property
    def total(self) -> int:
        """How many pictures there are."""
        return len(self.files)


def open_rgb(path: Path) -> Any:
    """Return a picture as PIL reads it, in RGB."""
    with importlib.import_module("PIL.Image").open(path) as picture:
        return picture.convert("RGB")


def stacked(items: list[Any]) -> Any:
    """Return tensors or arrays of one shape as one batch; anything else stays a list."""
    first = items[0]
    if not hasattr(first, "shape"):
        return items
    if len({tuple(each.shape) for each in items}) > 1:
        raise KitError(
            f"`transform` gives pictures of different shapes: {shown(sorted({tuple(i.shape) for i in items}))}",
            code="image-shapes-differ",
            hint="let it resize them to one size, or set `batch_size = 1`",
        )
    library = "torch" if hasattr(first, "detach") else "numpy"
    return importlib.import_module(library).stack(items)


def image_files(root: Path, sample: Sample, name: str = "") -> dict[str, Path]:
    """Return the picture of each id of the sample, whether the id has the file's suffix or not.

    The folders are those at the top of the data whose names begin with "test", or the named one, and what
    lies in them. In Kaggle's own scoring run, where the sample may still be the public one, the pictures
    that are there count. Raises KitError for ids without a picture.
    """
    folders = (
        [root / name] if name else sorted(path for path in root.glob("[tT][eE][sS][tT]*") if path.is_dir())
    )
    there = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    known: dict[str, Path] = {}
    for path in there:
        for way in (
            path.name,
            path.stem,
            *(path.relative_to(folder).as_posix() for folder in folders if folder in path.parents),
        ):
            known.setdefault(way, path)
    found = {each: known[each] for each in sample.ids if each in known}
    pictures = [path for path in there if path.suffix.lower() in PICTURES]
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN") and pictures and len(pictures) > len(found):
        whole = any(Path(each).suffix.lower() in PICTURES for each in sample.ids[:5])
        return {path.name if whole else path.stem: path for path in pictures}
    lacking = [each for each in sample.ids if each not in known]
    if lacking or not found:
        raise KitError(
            f"{len(lacking)} of {len(sample.ids)} ids of '{sample.path.name}' have no picture: {shown(lacking)}",
            [
                f"looked in: {', '.join(map(str, folders)) or 'no folder, none is called test*'}",
                f"there are: {shown(path.name for path in there) or 'no files'}",
            ],
            code="images-not-found",
            hint='name the folder: `test = "folder"` in [tool.offline-kit.notebook.params]; '
            "where an id is no file, write a `function`",
        )
    return found
