"""What a report knows of a submission's columns and of a kit."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from offline_kit.kit import manifest
from offline_kit.project.types import FileEntry, Kit, Role
from offline_kit.rehearsal.report import kit_contents
from offline_kit.rehearsal.report.column_facts import describe_table
from offline_kit.rehearsal.submission_check import SubmissionTable, read_table


def table_of(values: Iterable[object], name: str = "target") -> SubmissionTable:
    rows = tuple((f"id{number}", str(value)) for number, value in enumerate(values))
    return SubmissionTable(header=("id", name), rows=rows, is_whole=True)


def column_of(values: Iterable[object], **others: SubmissionTable) -> dict[str, Any]:
    (column,) = describe_table(table_of(values), **others)["columns"]
    assert isinstance(column, dict)
    return column


def test_numbers_have_range_mean_and_bins() -> None:
    """Every number is in one of the bins, the highest in the last."""
    column = column_of([n / 99 for n in range(100)])
    assert (column["kind"], column["min"], column["max"]) == ("numbers", 0.0, 1.0)
    assert column["mean"] == pytest.approx(0.5)
    assert sum(column["bins"]) == 100
    assert min(column["bins"]) >= 4


@pytest.mark.parametrize("values", [[1e308, -1e308, 1.5], [5.5] * 9, [1e-320, 2.5e-320]])
def test_extreme_numbers_are_described(values: list[float]) -> None:
    """Ranges that overflow, that are empty, or below what a float resolves."""
    column = column_of(values)
    assert sum(column["bins"]) == len(values)
    json.dumps(column, allow_nan=False)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1, 2] * 9, "labels"),
        (["cat", "dog", "cat"], "labels"),
        ([f"text number {n}" for n in range(90)], "text"),
        ([0.5, float("nan"), 1], "labels"),
        ([], "text"),
        (["", "", ""], "text"),
    ],
)
def test_the_kind_of_a_column_follows_from_its_values(values: list[object], kind: str) -> None:
    """Few whole numbers are classes, few words labels, other words texts."""
    assert column_of(values)["kind"] == kind


def test_several_labels_in_a_cell_are_counted_by_word() -> None:
    """As in a competition with several diseases on a leaf."""
    generator = random.Random(0)
    names = [f"disease{n}" for n in range(9)]
    column = column_of(" ".join(generator.sample(names, 3)) for _ in range(80))
    assert (column["kind"], column["unit"], column["total"]) == ("labels", "word", 240)
    assert {label for label, _ in column["counts"]} == {*names}


def test_a_column_is_compared_with_the_last_rehearsal_and_the_sample() -> None:
    """Changed rows are matched by their ids, whatever their order; the same bins serve all three."""
    now = table_of([0.0, 0.5, 1.0, 0.25])
    before = SubmissionTable(
        header=now.header, rows=(("id3", "0.5"), *now.rows[:2], ("id9", "7")), is_whole=True
    )
    facts = describe_table(now, previous=before, sample=table_of([0, 0]))
    (column,) = facts["columns"]
    assert facts["matched"] == 3
    assert column["change"] == {"changed": 1, "rows": 3, "mean_difference": pytest.approx(0.25 / 3)}
    assert column["previous"]["max"] == 7.0
    assert sum(column["previous"]["bins"]) == 3  # 7 is outside of the range of now
    assert column["sample"] | {"bins": None} == {"min": 0.0, "mean": 0.0, "max": 0.0, "bins": None}


def test_repeated_ids_are_not_matched() -> None:
    """One row for each box of an image has no partner."""
    boxes = SubmissionTable(header=("id", "x"), rows=(("a", "1.5"), ("a", "2.5")), is_whole=True)
    assert describe_table(boxes, previous=boxes)["matched"] == 0


def test_a_long_and_wide_table_is_read_in_part(tmp_path: Path) -> None:
    """Rows beyond 200,000 values are not read, columns beyond sixty not described; short rows are fine."""
    path = tmp_path / "submission.csv"
    path.write_text("\ufeffid" + ",c" * 80 + "\n" + "\n" + "1" + ",0.5" * 80 + "\n2\n" + "3,\0\n" * 7_000)
    table = read_table(path, max_cells=200_000)
    assert (len(table.rows), table.is_whole, table.header[0]) == (200_000 // 81, False, "id")
    facts = describe_table(table)
    assert (len(facts["columns"]), facts["other_columns"]) == (60, 20)


def test_a_kit_is_described_by_kind_and_reason(tmp_path: Path) -> None:
    """Packages with their version and fate, checkpoints by file, modules together; the sums agree with the manifest."""
    plan = {
        "image": "i",
        "install": [{"name": "mine", "role": "own", "wheel": "mine-1.0-py3-none-any.whl"}],
        "provided": [{"name": "torch", "version": "2.1"}, {"name": "timm", "version": "1.0"}],
    }
    contents = {
        "packages/install.json": (Role.LOCK, json.dumps(plan)),
        "packages/mine-1.0-py3-none-any.whl": (Role.WHEEL, "w" * 50),
        "packages/hydra_core-1.3-py3-none-any.whl": (Role.WHEEL, "w" * 900),
        "packages/timm-1.0-py3-none-any.whl": (Role.WHEEL, "w" * 300),
        "packages/antlr4-4.9.tar.gz": (Role.SDIST, "s" * 100),
        "packages/not a wheel": (Role.BUILD, "b" * 10),
        "offline_kit_runtime/x.py": (Role.RUNTIME, "r" * 20),
        "code/a.py": (Role.SOURCE, "a" * 7),
        "code/b.py": (Role.SOURCE, "b" * 8),
        "checkpoints/fold0.ckpt": (Role.CHECKPOINT, "c" * 4000),
    }
    entries = []
    for name, (role, text) in contents.items():
        path = tmp_path / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        entries.append(FileEntry(role=role, original=name, stored=name, size=len(text), sha256="0" * 64))
    part = manifest.make_part("kit", entries)
    described = kit_contents.describe_kit(Kit(folder=tmp_path, id=part.id, parts=(part,)))
    fates = {item["name"]: (item["version"], item["fate"], item["size"]) for item in described["items"]}
    assert fates == {
        "fold0.ckpt": ("", "checkpoints", 4000),
        "hydra-core": ("1.3", "bundled", 900),
        "timm": ("1.0", "spare", 300),
        "antlr4": ("4.9", "bundled", 100),
        "mine": ("1.0", "own", 50),
        "2 modules": ("", "own", 15),
        "not a wheel": ("", "build", 10),
        "offline-kit": ("", "runtime", 20 + len(json.dumps(plan))),
    }
    assert described["items"][0]["name"] == "fold0.ckpt"
    assert {kind["name"]: kind["size"] for kind in described["kinds"]} == {
        "checkpoints": 4000,
        "packages": 1310,
        "own code": 65,
        "runtime": 20 + len(json.dumps(plan)),
    }
    assert sum(kind["size"] for kind in described["kinds"]) == described["size"]
    assert [pin["name"] for pin in described["provided"]] == ["timm", "torch"]
