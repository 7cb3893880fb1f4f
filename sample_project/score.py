"""Score a submission against the labels, which no notebook ever sees.

    python score.py submission.csv                   against the hidden folder's labels
    python score.py submission.csv labels/public.csv

Prints macro-F1: the mean over the ten digits of each one's F1.
"""

import csv
import sys
from pathlib import Path

from sklearn.metrics import f1_score

HIDDEN = Path(__file__).parent / "labels" / "hidden.csv"
DIGITS = [str(digit) for digit in range(10)]


def answers(path: Path) -> dict[str, list[int]]:
    """Return for each picture of a table which of the ten digits it names, as zeros and ones."""
    with path.open(newline="") as stream:
        rows = {row["image"]: row["labels"].split() for row in csv.DictReader(stream)}
    return {image: [int(digit in named) for digit in DIGITS] for image, named in rows.items()}


def macro_f1(submission: Path, labels: Path = HIDDEN) -> float:
    """Return macro-F1; a picture that is missing or unknown is an error, as on Kaggle."""
    given, true = answers(submission), answers(labels)
    if given.keys() != true.keys():
        raise SystemExit(f"{submission} and {labels} do not name the same pictures")
    images = sorted(true)
    return float(
        f1_score([true[i] for i in images], [given[i] for i in images], average="macro", zero_division=0)
    )


if __name__ == "__main__":
    chosen = [Path(word) for word in sys.argv[1:]]
    if not 1 <= len(chosen) <= 2:
        raise SystemExit(__doc__)
    if missing := [str(path) for path in chosen if not path.is_file()]:
        raise SystemExit(f"there is no {' and no '.join(missing)}; a rehearsal writes the submission")
    print(f"macro-F1 {macro_f1(*chosen):.4f}")
