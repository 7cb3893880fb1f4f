"""Shared by tests: competitions of the local Kaggle: made from a folder, submitted to by notebook, scored on a hidden test."""

from pathlib import Path

ANSWER = """
import csv, os, pathlib
rerun = os.environ.get("KAGGLE_IS_COMPETITION_RERUN") is not None
data = pathlib.Path(os.environ["INPUT"], "competitions/small-digits")
rows = list(csv.DictReader((data / "test.csv").open()))
text = "id,label\\n" + "".join(f"{row['id']},{int(row['x']) % 2}\\n" for row in rows)
pathlib.Path("submission.csv").write_text(text)
assert (data / "train.csv").exists(), "what is not hidden stays"
"""


SHARE = """
import csv

def right(submission, solution):
    given, true = ([row["label"] for row in csv.DictReader(open(path))] for path in (submission, solution))
    return sum(map(str.__eq__, given, true)) / len(true)
"""


def write(path: Path, head: str, *rows: str) -> Path:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def competition(folder: Path, extra: str = "", metric: str = 'metric = "share.py:right"') -> Path:
    """Write a competition: the label is the parity of x, but for one row of the hidden test."""
    place = folder / "small-digits"
    write(place / "public/train.csv", "id,x,label", "t1,1,1")
    write(place / "public/test.csv", "id,x", "p1,4")
    write(place / "public/sample_submission.csv", "id,label", "p1,0")
    (place / "share.py").write_text(SHARE)
    write(place / "hidden/test.csv", "id,x", "h1,1", "h2,2", "h3,3", "h4,4")
    rows = ("h4,0,Private", "h1,1,Public", "h2,1,Public", "h3,1,Private")
    write(place / "solution.csv", "id,label,Usage", *rows)
    (place / "competition.toml").write_text(f"{metric}\n{extra}\n")
    return place
