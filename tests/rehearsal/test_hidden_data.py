"""The data of a hidden run: other ids wherever they stand, and rows that still belong together."""

import csv
import json
from pathlib import Path

import pytest

from offline_kit.notebook.runtime.kit_submission import find_sample
from offline_kit.rehearsal.hidden_data import (
    DataChoice,
    HiddenData,
    make_hidden_data,
    overlay_folder,
    parse_auto,
)

IDS = ("ab12", "cd34", "ef56", "0a9b", "77c0", "9f1e")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as stream:
        return [row[name] for row in csv.DictReader(stream)]


def make(
    data: Path,
    *,
    seed: int = 1,
    rows: int | None = None,
    rare: bool = False,
    unreadable: bool = False,
    name: str = "",
) -> HiddenData:
    folder = data.with_name(name or f"hidden-{seed}-{rare}")
    choice = DataChoice(seed=seed, unreadable=unreadable)
    return make_hidden_data(data, find_sample(data), folder, choice=choice, limit=None, rows=rows, rare=rare)


def covered(made: HiddenData) -> dict[str, Path]:
    return {path.name: path for path in made.covers}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures, two lists of them and one of all pictures, and a JSON file."""
    data = tmp_path / "data"
    for name in IDS:
        write(data / "test_images" / f"{name}.jpg", name)
        write(data / "test_masks" / name / f"{name}.txt", name)
    rows = "".join(f"{name},{'xy'[number % 2]}\n" for number, name in enumerate(IDS))
    write(data / "test.csv", f"id,site\n{rows}")
    write(
        data / "metadata.csv",
        "image,site\ntrain1.jpg,q\n" + "".join(f"{name}.jpg,{name}\n" for name in IDS),
    )
    write(data / "test_boxes.json", json.dumps({name: {"of": name} for name in IDS}))
    write(data / "sample_submission.csv", "id,label\n" + "".join(f"{name},0.5\n" for name in IDS))
    write(data / "train.csv", "id,label\nzz,1\n")
    return data


def test_ids_are_renamed_wherever_they_stand(pictures: Path) -> None:
    """Sample, lists, JSON, files and folders have the same new ids, each with its original's content."""
    made = make(pictures)
    paths, origin = covered(made), made.originals
    ids = column(paths["sample_submission.csv"], "id")
    assert made.rows == len(set(ids)) == 12
    assert set(ids) == origin.keys()
    assert not set(ids) & set(origin.values())
    assert (
        set(column(paths["test.csv"], "id"))
        == {*json.loads(paths["test_boxes.json"].read_text())}
        == set(ids)
    )
    for name in ids:
        assert (paths["test_images"] / f"{name}.jpg").read_text() == origin[name]
        assert (paths["test_masks"] / name / f"{name}.txt").read_text() == origin[name]
    images = column(paths["metadata.csv"], "image")
    assert images[0] == "train1.jpg"
    assert set(images[1:]) == {f"{name}.jpg" for name in ids}
    assert "train.csv" not in paths


def test_lists_are_in_different_orders(pictures: Path) -> None:
    """No list tells by its order what belongs together."""
    paths = covered(make(pictures))
    assert column(paths["test.csv"], "id") != column(paths["sample_submission.csv"], "id")


def test_the_seed_decides(pictures: Path) -> None:
    """The same seed makes the same data, another one other data."""
    first, second = make(pictures), make(pictures, seed=2)
    texts = [covered(made)["test.csv"].read_text() for made in (first, second)]
    again = make(pictures, name="again")
    assert covered(again)["test.csv"].read_text() == texts[0] != texts[1]


@pytest.mark.parametrize(("wanted", "made_rows"), [(None, 12), (20, 20), (1000, 60)])
def test_number_of_rows(pictures: Path, wanted: int | None, made_rows: int) -> None:
    """Twice the public rows, or those of the real test set, but ten times the public ones at most."""
    assert make(pictures, rows=wanted).rows == made_rows


def test_rare_changes(pictures: Path) -> None:
    """One id loses its file, and one mask is longer than Python's csv takes by itself."""
    write(
        pictures / "sample_submission.csv",
        "id,mask\n" + "".join(f"{n},1 2\n" for n in ("ab12", "cd34", "ef56")),
    )
    made = make(pictures, rare=True)
    assert len(made.rare_changes) == 2
    ids = {new for new, _ in made.originals.items()}
    assert len(ids - {path.stem for path in covered(made)["test_images"].iterdir()}) == 1
    assert max(map(len, covered(made)["sample_submission.csv"].read_text().splitlines())) > 131_072


@pytest.mark.parametrize(
    ("hidden", "choice"),
    [
        ("auto", DataChoice()),
        ("auto:7", DataChoice(seed=7)),
        ("auto:unreadable", DataChoice(unreadable=True)),
        ("auto:7:unreadable", DataChoice(seed=7, unreadable=True)),
        ("auto:unreadable:7", DataChoice(seed=7, unreadable=True)),
        ("auto:readable", None),
        ("autumn", None),
    ],
)
def test_how_auto_is_written(hidden: str, choice: DataChoice | None) -> None:
    """With a seed, an unreadable file or both, in any order; all else is a folder."""
    assert parse_auto(hidden) == choice


@pytest.mark.parametrize("rare", [False, True])
def test_an_unreadable_file(pictures: Path, rare: bool) -> None:
    """One file keeps its name and its first bytes; the public data, which it may be linked to, stays."""
    for name in IDS:
        write(pictures / "test_images" / f"{name}.jpg", name * 200)
    made = make(pictures, rare=rare, unreadable=True)
    paths = sorted(covered(made)["test_images"].iterdir())
    damaged = [path for path in paths if path.stat().st_size < 800]
    assert damaged == paths[:1]
    assert damaged[0].read_text() == (made.originals[damaged[0].stem] * 200)[:100]
    assert f"test_images/{damaged[0].name}" in made.changes[-1]
    assert damaged[0].stem in made.altered_ids
    assert all((pictures / "test_images" / f"{name}.jpg").read_text() == name * 200 for name in IDS)


def test_rows_of_files(tmp_path: Path) -> None:
    """Ids `<file id>_<n>`: files get new names, their rows stay together and in their order."""
    data = tmp_path / "data"
    for name in ("s1x", "s2x", "s3x"):
        write(data / "test" / f"{name}.csv", "t,value\n0,1\n1,2\n")
    rows = [f"{name}_{n}" for name in ("s1x", "s2x", "s3x") for n in range(4)]
    write(data / "sample_submission.csv", "row,value\n" + "".join(f"{row},0\n" for row in rows))
    made = make(data)
    new_rows = column(covered(made)["sample_submission.csv"], "row")
    files = [path.stem for path in covered(made)["test"].iterdir()]
    assert sorted(files) == sorted(new for new, _ in made.originals.items())
    assert len(files) == 6
    assert [row.rpartition("_")[2] for row in new_rows] == ["0", "1", "2", "3"] * 6
    assert {row.rpartition("_")[0] for row in new_rows} == set(files)


def test_studies_with_rows_for_each_finding(tmp_path: Path) -> None:
    """Numbers for ids, folders of series below them, and rows whose names have several parts more."""
    data = tmp_path / "data"
    studies = ("44036", "44109", "44210")
    for study in studies:
        write(data / "test_images" / study / "28" / "1.dcm", study)
    lines = "".join(f"{study},{series},axial\n" for study in studies for series in (28, 31))
    write(data / "test_series.csv", f"study_id,series_id,kind\n{lines}")
    findings = ("canal_l1_l2", "left_narrowing_l1_l2")
    rows = [f"{study}_{finding},0.3\n" for study in studies for finding in findings]
    write(data / "sample_submission.csv", "row_id,severe\n" + "".join(rows))
    made = make(data)
    new_ids = {new for new, _ in made.originals.items()}
    assert len(new_ids) == 6
    assert {path.name for path in covered(made)["test_images"].iterdir()} == new_ids
    assert set(column(covered(made)["test_series.csv"], "study_id")) == new_ids
    row_ids = column(covered(made)["sample_submission.csv"], "row_id")
    assert sorted(row_ids) == sorted(f"{name}_{finding}" for name in new_ids for finding in findings)


def test_json_by_id(tmp_path: Path) -> None:
    """Tasks by id, as in ARC, and no list of rows at all."""
    data = tmp_path / "data"
    tasks = {f"{n}0a{n}f{n}": [{"input": [[n]]}] for n in range(4)}
    write(data / "arc_test_challenges.json", json.dumps(tasks))
    write(data / "sample_submission.json", json.dumps(dict.fromkeys(tasks, 0)))
    made = make(data)
    contents = [json.loads(path.read_text()) for path in made.covers]
    assert len(contents) == 2
    assert contents[0].keys() == contents[1].keys() == made.originals.keys()


def test_lists_in_folders(tmp_path: Path) -> None:
    """A list of all files, and the id inside each file, are renamed with them."""
    data = tmp_path / "data"
    for name in ("s1x", "s2x"):
        write(data / "test" / f"{name}.csv", f"series,t\n{name},0\n{name},1\n")
    write(data / "test" / "index.csv", "file,n\ntest/s1x.csv,2\ntest/s2x.csv,2\n")
    write(data / "sample_submission.csv", "id,value\ns1x,0\ns2x,0\n")
    made = make(data)
    new_ids = {new for new, _ in made.originals.items()}
    folder = covered(made)["test"]
    for name in new_ids:
        assert column(folder / f"{name}.csv", "series") == [name, name]
    assert set(column(folder / "index.csv", "file")) == {f"test/{name}.csv" for name in new_ids}


def test_the_name_of_a_file_is_no_category(pictures: Path) -> None:
    """Rows refer to pictures of others; only the site loses a value."""
    rows = "".join(f"{name},{'xy'[n % 2]},{('ab12', 'cd34')[n % 2]}.jpg\n" for n, name in enumerate(IDS))
    write(pictures / "test.csv", f"id,site,like\n{rows}")
    lines = [line for line in make(pictures).changes if "no row" in line]
    assert len(lines) == 1
    assert "site" in lines[0]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    """Whole numbers stay whole numbers."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = tmp_path / "data"
    data.mkdir()
    table = arrow.table({"id": [5, 6, 7], "x": [[1.5], [2.5], None]})
    parquet.write_table(table, data / "test.parquet")
    write(data / "sample_submission.csv", "id,y\n5,0\n6,0\n7,0\n")
    made = make(data)
    new = parquet.read_table(covered(made)["test.parquet"])
    assert new.schema == table.schema
    assert new.num_rows == 6
    assert set(map(str, new["id"].to_pylist())) == {name for name, _ in made.originals.items()}


def test_rows_without_ids_follow_the_sample(tmp_path: Path) -> None:
    """Where only the order links a list to the sample, both keep the same order."""
    data = tmp_path / "data"
    write(data / "test.csv", "pixel0,pixel1\n" + "".join(f"{n}.5,{n}.25\n" for n in range(4)))
    write(data / "sample_submission.csv", "ImageId,Label\n" + "".join(f"{n + 1},0\n" for n in range(4)))
    made = make(data)
    ids = column(covered(made)["sample_submission.csv"], "ImageId")
    pixels = column(covered(made)["test.csv"], "pixel0")
    assert [f"{int(made.originals[name]) - 1}.5" for name in ids] == pixels


@pytest.mark.parametrize("extra", ["test.h5", "test_features.npz", f"series/{IDS[0]}.txt"])
def test_what_is_not_recognised_is_not_varied(pictures: Path, extra: str) -> None:
    """A file that may hold ids and cannot be read, or is named by one elsewhere, leaves all as it is: a sentence says so."""
    write(pictures / extra, "?")
    made = make(pictures)
    assert made.covers == ()
    assert made.originals == {}
    assert extra.partition("/")[0] in made.changes[0]


def test_dates_are_not_renamed(tmp_path: Path) -> None:
    """A date is no name."""
    write(tmp_path / "data" / "test.csv", "date,x\n2024-01-31,1\n2024-02-01,2\n")
    assert make(tmp_path / "data").covers == ()


def test_a_folder_of_ones_own(pictures: Path, tmp_path: Path) -> None:
    """Its entries replace those of the same names."""
    write(tmp_path / "own" / "test.csv", "id,site\nq,x\n")
    write(tmp_path / "own" / "sample_submission.csv", "id,label\nq,0\n")
    made = overlay_folder(pictures, tmp_path / "own", find_sample(pictures))
    assert set(covered(made)) == {"test.csv", "sample_submission.csv"}
    assert made.rows == 1
