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

from offline_kit.notebook.runtime.kit_runtime import KitError, in_scoring_run, shorten_list
from offline_kit.notebook.runtime.kit_tasks import RowBatch, SampleSubmission

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm"}
    | {".dcm", ".dicom", ".npy", ".npz"}
)
"""Suffixes of images in a test folder; other files count if an id of the sample names them."""


@dataclass
class ImageBatches:
    """The pictures, batch by batch; they can be gone through again for the next model."""

    files: dict[str, Path]
    """The picture of each id."""
    size: int
    """Pictures of a batch."""
    transform: Callable[[Path], Any] | None = None
    """Makes the model's input of a path; without it the model gets RGB pictures of PIL."""

    def __iter__(self) -> Iterator[RowBatch]:
        ids = list(self.files)
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            for start in range(0, len(ids), self.size):
                batch_ids = ids[start : start + self.size]
                read = list(
                    pool.map(self.transform or open_rgb, [self.files[image_id] for image_id in batch_ids])
                )
                yield RowBatch(batch_ids, stack_items(read))

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.files)


def open_rgb(path: Path) -> Any:
    """Return a picture as PIL reads it, in RGB."""
    with importlib.import_module("PIL.Image").open(path) as picture:
        return picture.convert("RGB")


def stack_items(items: list[Any]) -> Any:
    """Return tensors or arrays of one shape as one batch; anything else stays a list."""
    first = items[0]
    if not hasattr(first, "shape"):
        return items
    if len({tuple(item.shape) for item in items}) > 1:
        raise KitError(
            f"`transform` gives pictures of different shapes: {shorten_list(sorted({tuple(i.shape) for i in items}))}",
            code="image-shapes-differ",
            hint="let it resize them to one size, or set `batch_size = 1`",
        )
    library = "torch" if hasattr(first, "detach") else "numpy"
    return importlib.import_module(library).stack(items)


def find_images(root: Path, sample: SampleSubmission, name: str = "") -> dict[str, Path]:
    """Return the image of each id of the sample, whether or not the id includes the suffix.

    Searches the folders at the top of the data whose names begin with "test", or the named one,
    recursively. In Kaggle's scoring run, where the sample may still be the public one, the existing images
    decide. Raises KitError for ids without an image.
    """
    folders = (
        [root / name] if name else sorted(path for path in root.glob("[tT][eE][sS][tT]*") if path.is_dir())
    )
    test_files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    path_of_id: dict[str, Path] = {}
    for path in test_files:
        for spelling in (
            path.name,
            path.stem,
            *(path.relative_to(folder).as_posix() for folder in folders if folder in path.parents),
        ):
            path_of_id.setdefault(spelling, path)
    images = {image_id: path_of_id[image_id] for image_id in sample.ids if image_id in path_of_id}
    pictures = [path for path in test_files if path.suffix.lower() in IMAGE_SUFFIXES]
    if in_scoring_run() and pictures and len(pictures) > len(images):
        has_suffix = any(Path(image_id).suffix.lower() in IMAGE_SUFFIXES for image_id in sample.ids[:5])
        return {path.name if has_suffix else path.stem: path for path in pictures}
    missing_ids = [image_id for image_id in sample.ids if image_id not in path_of_id]
    if missing_ids or not images:
        raise KitError(
            f"{len(missing_ids)} of {len(sample.ids)} ids of '{sample.path.name}' have no picture: {shorten_list(missing_ids)}",
            [
                f"looked in: {', '.join(map(str, folders)) or 'no folder, none is called test*'}",
                f"there are: {shorten_list(path.name for path in test_files) or 'no files'}",
            ],
            code="images-not-found",
            hint='name the folder: `test = "folder"` in [tool.offline-kit.notebook.params]; '
            "where an id is no file, write a `function`",
        )
    return images
