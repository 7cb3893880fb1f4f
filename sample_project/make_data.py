"""Compose the pictures of this sample from scikit-learn's handwritten digits.

    python make_data.py      writes input/, hidden/ and labels/ again, the same pictures

The 1797 digits (8 x 8, by 13 writers, from the UCI repository, shipped with scikit-learn) are split
once: train.py composes its pictures from 1397 of them, the two test sets show the other 400 alone.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
SIZE, DIGIT = 32, 8
PUBLIC, HIDDEN = 40, 240


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits (values 0 to 1) and what they are, of the part "train" or "test"."""
    found = load_digits()
    order = np.random.default_rng(2021).permutation(len(found.images))
    chosen = order[:1397] if part == "train" else order[1397:]
    return found.images[chosen] / 16.0, found.target[chosen]


def places(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Return corners for `count` digits that do not overlap."""
    taken: list[tuple[int, int]] = []
    while len(taken) < count:
        x, y = (int(value) for value in rng.integers(0, SIZE - DIGIT + 1, size=2))
        if all(abs(x - left) >= DIGIT or abs(y - top) >= DIGIT for left, top in taken):
            taken.append((x, y))
    return taken


def compose(rng: np.random.Generator, bank: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return one picture (32 x 32 bytes) of two to four digits on a noisy ground, and which they are."""
    picture = np.zeros((SIZE, SIZE))
    shown = rng.integers(0, len(bank), size=rng.integers(2, 5))
    for index, (x, y) in zip(shown, places(rng, len(shown)), strict=True):
        picture[y : y + DIGIT, x : x + DIGIT] = bank[index] * rng.uniform(0.7, 1.0)
    noisy = 0.1 + 0.8 * picture + rng.normal(0, 0.06, picture.shape)
    return (noisy.clip(0, 1) * 255).astype(np.uint8), sorted({int(names[index]) for index in shown})


def write(folder: Path, labels: Path, count: int, rng: np.random.Generator) -> None:
    """Write one test set: its pictures, the sample submission, and the labels somewhere else."""
    bank, names = digits("test")
    rows = []
    (folder / "test").mkdir(parents=True, exist_ok=True)
    for _ in range(count):
        name = f"{rng.bytes(6).hex()}.png"
        picture, shown = compose(rng, bank, names)
        Image.fromarray(picture).save(folder / "test" / name, optimize=True)
        rows.append((name, " ".join(str(digit) for digit in shown)))
    table(folder / "sample_submission.csv", [(name, "0 1") for name, _ in sorted(rows)])
    table(labels, sorted(rows))


def table(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write rows of image and labels under their header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", "labels"))
        writer.writerows(rows)


if __name__ == "__main__":
    source = np.random.default_rng(8)
    write(HERE / "input", HERE / "labels" / "public.csv", PUBLIC, source)
    write(HERE / "hidden", HERE / "labels" / "hidden.csv", HIDDEN, source)
