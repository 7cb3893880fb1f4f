"""Small copies of test images beside their predictions."""

import base64
import io
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from offline_kit.rehearsal.submission_check import SubmissionTable

_COUNT = 16
_SIDE = 144  # pixels; shown at half of that on a dense screen
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_SEARCH_SECONDS = 0.4  # for the images of the test set, which may have a million files
_MAX_PIXELS = 40_000_000
_MAX_VALUES = 3  # predictions below an image


def draw_pictures(table: SubmissionTable, folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return sixteen test images as JPEG data URIs with their predictions; none without Pillow or without images.

    An image belongs to the id (the first column) that its file name has, with or without suffix.
    """
    if find_spec("PIL") is None:
        return []
    predictions: dict[str, list[Sequence[str]]] = {}
    for row in table.rows:
        predictions.setdefault(row[0].rpartition("/")[2], []).append(row[1:])
    images = dict(_match_images(predictions, folders))
    names = sorted(images)
    pictures: list[dict[str, Any]] = []
    for name in names[:: max(1, len(names) // _COUNT)]:
        if len(pictures) < _COUNT and (uri := _make_thumbnail(images[name])):
            values = _describe_values(table.header, predictions[name])
            pictures.append({"id": name, "uri": uri, "values": values})
    return pictures


def _match_images(ids: Mapping[str, object], folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the images whose name is an id, as far as they are found in a moment."""
    until = time.monotonic() + _SEARCH_SECONDS
    # Of an id in train and test, the image of the test set comes last and counts.
    for folder in sorted(folders, key=lambda path: "test" in path.name.lower()):
        for parent, subfolders, names in os.walk(folder):
            subfolders.sort(key=lambda name: "train" in name.lower())
            for name in names:
                stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a Path for each of many files is slow
                if suffix.lower() in _SUFFIXES and (key := name if name in ids else stem) in ids:
                    yield key, Path(parent, name)
            if time.monotonic() > until:
                return


def _make_thumbnail(path: Path) -> str:
    """Return an image as a small JPEG in a data URI; "" if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                return ""
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))  # a JPEG decoder makes it smaller at no cost
            small = image.convert("RGB") if image.mode not in ("I;16", "I", "F") else _stretch_range(image)
            small.thumbnail((_SIDE, _SIDE))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=80)
    except Exception:  # noqa: BLE001 - whatever a damaged image makes of a decoder
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _stretch_range(image: Any) -> Any:
    """Return an image of more than 8 bits with its range stretched over 8."""
    low, high = image.getextrema()
    scale = 255 / max(1, high - low)
    return image.point(lambda value: value * scale - low * scale).convert("L")


def _describe_values(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the predictions of an image by column: the highest of many numbers, the number of many rows."""
    if len(rows) > 1:
        return [["", f"{len(rows)} rows"]]
    named = [[name, value[:40]] for name, value in zip(header[1:], rows[0], strict=False)]
    if len(named) > _MAX_VALUES:
        with suppress(ValueError):  # words stay in the order of the columns
            named.sort(key=lambda pair: -float(pair[1]))
    return [[name, _shorten_number(value)] for name, value in named[:_MAX_VALUES]]


def _shorten_number(value: str) -> str:
    """Return "0.44" for "0.441127384"; other texts, and whole numbers, as they are."""
    try:
        return f"{float(value):.2f}" if "." in value and abs(float(value)) < 1000 else value
    except ValueError:
        return value
