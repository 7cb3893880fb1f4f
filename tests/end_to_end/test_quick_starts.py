"""The quick starts of docs/, followed to the letter."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]
START = Path(__file__).parents[2] / "docs" / "start"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a quick start in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (START / page).read_text(encoding="utf-8"), re.DOTALL)


def test_csv(tmp_path: Path) -> None:
    """From the page's model to a score of the local Kaggle, with the mistake that the page shows and its remedy."""
    project = tmp_path / "wine"
    project.mkdir()
    (making,) = blocks("csv.md", "python")
    subprocess.run([sys.executable, "-c", making], cwd=project, check=True)
    configuration, remedy, competition = blocks("csv.md", "toml")
    run("init", "--competition", "wine-cultivars", "--yes", cwd=project).good()
    (project / "offline-kit.toml").write_text(configuration)
    failed = run("rehearse", "--env", "current", "--json", cwd=project)
    assert (failed.code, "postprocess" in failed.facts["hint"]) == (1, True)
    (project / "offline-kit.toml").write_text(configuration + remedy)
    run("rehearse", "--env", "current", cwd=project).good()
    (project / "competition.toml").write_text(competition)
    (project / "labels").mkdir()
    (project / "labels" / "solution.csv").write_text(labels())
    own = {
        "OFFLINE_KIT_CACHE": str(tmp_path / "cache")
    }  # a local Kaggle of its own, on which nothing was submitted
    words = ("ship", "--to", "local", "--env", "current", "--wait", "--yes", "--json")
    shipped = run(*words, cwd=project, env=own).good()
    assert float(shipped.facts["submission"]["score"].split()[0]) > 0.9


def labels() -> str:
    """Return the truth of the page's test rows."""
    from sklearn.datasets import load_wine

    target = load_wine().target
    return "id,target\n" + "".join(f"{number},{target[number]}\n" for number in range(1, len(target), 2))


def test_server(tmp_path: Path) -> None:
    """The page's answer is rehearsed with the page's configuration and the options of the stand-in."""
    import joblib
    import pandas as pd
    from sklearn.linear_model import Ridge

    table = pd.DataFrame({"row_id": range(60), "x": [number / 10 for number in range(60)]})
    joblib.dump(Ridge().fit(table[["x"]], 2 * table["x"]), tmp_path / "ridge.joblib")
    (tmp_path / "input").mkdir()
    table.to_csv(tmp_path / "input" / "test.csv", index=False)
    table[["row_id"]].assign(y=0.0).to_csv(tmp_path / "input" / "sample_submission.csv", index=False)
    (tmp_path / "requirements.in").write_text("scikit-learn\npandas\npolars\npyarrow\n")
    (tmp_path / "answer.py").write_text(blocks("server.md", "python")[0])
    (tmp_path / "offline-kit.toml").write_text("".join(blocks("server.md", "toml")))
    run("rehearse", "--env", "current", cwd=tmp_path).good()
    assert (tmp_path / "dist" / "offline-kit" / "rehearsal" / "submission.parquet").is_file()


def test_packages(tmp_path: Path) -> None:
    """The commands of the page, the push to a local Kaggle."""
    making, build, push = blocks("packages.md", "sh")[0].strip().splitlines()
    subprocess.run(["sh", "-c", making], cwd=tmp_path, check=True)
    run(*build.split()[1:], cwd=tmp_path).good()
    run(*push.split()[1:], "--to", "local", cwd=tmp_path).good()
    packages = tmp_path / "dist" / "offline-kit" / "dataset" / "packages"
    assert list(packages.glob("iterative_stratification-*.whl"))
