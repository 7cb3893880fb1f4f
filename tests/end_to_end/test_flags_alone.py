"""A folder without any configuration."""

from pathlib import Path

import pytest

from tests.support.workbench import IMAGE, plan, run

pytestmark = [pytest.mark.slow, pytest.mark.index]


def test_requirements_and_a_checkpoint_build_from_flags(tmp_path: Path) -> None:
    """`-r`, `-c`, `--dataset` are enough for a kit."""
    import torch

    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "requirements.txt").write_text("ttach\n")
    torch.save({"weight": torch.ones(2)}, folder / "best.pt")
    files = ("-r", "requirements.txt", "-c", "best.pt")
    named = ("--dataset", "bare-kit", "--image", IMAGE)
    done = run("build", *files, *named, "--json", cwd=folder).good()
    assert [pin["name"] for pin in done.facts["bundled"]] == ["ttach"]
    assert [item["name"] for item in plan(folder)["install"]] == ["ttach"]
    kit = folder / "dist" / "offline-kit"
    assert (kit / "notebook" / "inference.ipynb").is_file()
    assert [path.name for path in (kit / "dataset" / "checkpoints").iterdir()] == ["best.pt.xyz"]
    assert (folder / "requirements.txt").read_text() == "ttach\n"


@pytest.mark.sandbox
def test_a_function_in_a_file_is_rehearsed_from_flags(tmp_path: Path) -> None:
    """The least that runs: a function, its checkpoint, the competition's data."""
    import torch

    folder = tmp_path / "bare"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "sample_submission.csv").write_text("id,target\na,0\n")
    (folder / "requirements.txt").write_text("ttach\n")
    torch.save({"weight": torch.tensor(0.75)}, folder / "best.pt")
    (folder / "run.py").write_text(
        "import torch, ttach\n\ndef go(context):\n"
        "    weights = torch.load(context.checkpoints[0], weights_only=True)\n"
        "    return [{'id': 'a', 'target': float(weights['weight'])}]\n"
    )
    project = ("-r", "requirements.txt", "-c", "best.pt", "--dataset", "bare-kit", "--image", IMAGE)
    notebook = ("--template", "function", "--function", "run.py:go")
    data = ("--competition", "some-competition", "--competition-data", "data")
    run("rehearse", *project, *notebook, *data, "--env", "current", "--json", cwd=folder).good()
    submission = folder / "dist" / "offline-kit" / "rehearsal" / "submission.csv"
    assert submission.read_text().split() == ["id,target", "a,0.75"]
