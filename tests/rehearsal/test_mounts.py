"""/kaggle/input as the notebook finds it."""

from pathlib import Path

import pytest

from offline_kit.core.errors import ProjectError
from tests.support.mounted_kits import lay_out, make_kit


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A competition's data: a sample, a list, a folder of test files, and what has nothing to do with it."""
    folder = tmp_path / "data"
    (folder / "test_images").mkdir(parents=True)
    (folder / "train_images").mkdir()
    names = [f"n{i}.jpg" for i in range(6)]
    (folder / "sample_submission.csv").write_text("image,label\n" + "".join(f"{n},0\n" for n in names))
    (folder / "test.csv").write_text(
        "row,image\n" + "".join(f"{i},{n}\n" for i, n in enumerate(reversed(names)))
    )
    for name in names:
        (folder / "test_images" / name).write_text(name)
    (folder / "train_images" / "t.jpg").write_text("t")
    return folder


@pytest.mark.parametrize(
    ("layout", "dataset", "place", "competition"),
    [
        ("new", "me/kit", "datasets/me/kit", "/kaggle/input/competitions/comp"),
        ("new", "plants", "datasets/you/plants", "/kaggle/input/competitions/comp"),
        ("old", "me/kit", "kit", "/kaggle/input/comp"),
        ("new", "", "datasets/you/offline-kit", "/kaggle/input/competitions/comp"),
    ],
)
def test_both_layouts(
    tmp_path: Path, data: Path, layout: str, dataset: str, place: str, competition: str
) -> None:
    """The kit and the data lie where the layout puts them; the data is mounted, not copied."""
    found = lay_out(
        tmp_path, make_kit(tmp_path / "dist", "kit"), layout=layout, dataset=dataset, competition_data=data
    )
    assert (tmp_path / "run" / "input" / place / "kit.ckpt").is_file()
    assert [(mount.inside, mount.writable) for mount in found.mounts] == [
        ("/kaggle/input", False),
        (competition, False),
    ]
    assert found.mounts[1].source == data
    assert found.sample == data / "sample_submission.csv"


def test_the_parts_of_a_split_kit_are_datasets_of_their_own(tmp_path: Path) -> None:
    """Each part is mounted under the dataset's name with its own behind it."""
    lay_out(tmp_path, make_kit(tmp_path / "dist", "code", "packages"))
    assert sorted(path.name for path in (tmp_path / "run/input/datasets/me").iterdir()) == [
        "kit-code",
        "kit-packages",
    ]


def test_the_kit_passes_through_kaggles_treatment(tmp_path: Path) -> None:
    """What Kaggle does to names happens to the mounted kit, and never to the kit itself."""
    whole = make_kit(tmp_path / "dist", "kit")
    (tmp_path / "dist" / "dataset" / "a+b.txt").write_text("x")
    lay_out(tmp_path, whole)
    assert sorted(path.name for path in (tmp_path / "run/input/datasets/me/kit").iterdir()) == [
        "ab.txt",
        "kit.ckpt",
        "offline-kit.json",
    ]
    assert (tmp_path / "dist" / "dataset" / "a+b.txt").exists()


def test_what_is_not_mounted_is_said(tmp_path: Path) -> None:
    """Other attached sources, and missing data, are notes."""
    metadata = {"dataset_sources": ["me/kit", "them/extra"], "model_sources": ["a/b/c/d/1"]}
    notes = " | ".join(lay_out(tmp_path, make_kit(tmp_path / "dist", "kit"), metadata=metadata).notes)
    assert "'them/extra'" in notes
    assert "'a/b/c/d/1'" in notes
    assert "'me/kit'" not in notes
    assert "competition_data" in notes


def test_data_behind_links_is_visible_too(tmp_path: Path, data: Path) -> None:
    """A folder that is only linked into the data, as people do with large ones, is mounted where its link leads."""
    (tmp_path / "disk" / "train").mkdir(parents=True)
    (data / "train").symlink_to(tmp_path / "disk" / "train")
    (data / "broken").symlink_to(tmp_path / "nowhere")
    found = lay_out(tmp_path, make_kit(tmp_path / "dist", "kit"), competition_data=data)
    assert [mount.inside for mount in found.mounts[2:]] == [str(tmp_path / "disk" / "train")]


def test_rows_cut_the_test_set_and_its_sample(tmp_path: Path, data: Path) -> None:
    """Lists and folders of the test set shrink to the sample's first ids; the originals stay as they are."""
    found = lay_out(tmp_path, make_kit(tmp_path / "dist", "kit"), competition_data=data, rows=2)
    covers = {
        mount.inside.removeprefix("/kaggle/input/competitions/comp/"): mount.source
        for mount in found.mounts[2:]
    }
    assert sorted(covers) == ["sample_submission.csv", "test.csv", "test_images"]
    assert covers["test.csv"].read_text() == "row,image\n4,n1.jpg\n5,n0.jpg\n"
    assert sorted(path.name for path in covers["test_images"].iterdir()) == ["n0.jpg", "n1.jpg"]
    assert found.sample == covers["sample_submission.csv"]
    assert found.sample.read_text() == "image,label\nn0.jpg,0\nn1.jpg,0\n"
    assert len(list((data / "test_images").iterdir())) == 6


def test_rows_without_anything_to_cut_are_said(tmp_path: Path) -> None:
    """Data in which no test set is recognised stays whole, and the note says so."""
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x.bin").write_text("x")
    found = lay_out(tmp_path, make_kit(tmp_path / "dist", "kit"), competition_data=tmp_path / "odd", rows=2)
    assert "nothing" in found.notes[-1]


def test_data_that_is_no_folder_is_told(tmp_path: Path) -> None:
    """With the way out."""
    whole = make_kit(tmp_path / "dist", "kit")
    with pytest.raises(ProjectError, match="is not a folder"):
        lay_out(tmp_path, whole, competition_data=tmp_path / "nowhere")
