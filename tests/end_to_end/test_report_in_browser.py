"""The report in a real browser: it requests nothing, fits a phone, and is light or dark as the reader's system.

REPORT_SHOTS=<folder> keeps the screenshots, to be looked at.
"""

import os
import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import PROGRAM, Browser, running_browser
from tests.support.workbench import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.index,
    pytest.mark.sandbox,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine"),
]

SAMPLE = Path(__file__).parents[2] / "sample_project"
CONFIG = """
competition = "house-prices"
competition_data = "input"
dataset = "house-prices-kit"
image = "kaggle-2026-10-cpu"
checkpoints = ["models"]

[[notebook.models]]
files = "models/*"
"""
FEATURES = ("area", "rooms", "age")
OWN_SERVICES = (
    "google.com",
    "googleapis.com",
    "gstatic.com",
    "gvt1.com",
    "duckduckgo.com",
)  # of the browser itself
COPY = """#!{python}
import os, shutil, sys, urllib.parse, urllib.request
page = urllib.request.url2pathname(urllib.parse.urlparse(sys.argv[1]).path)
shutil.copyfile(page, os.environ["TARGET"])
"""
PAGES = ("sample", "ensemble", "failed")


def write_models(project: Path, seed: int) -> None:
    """Train three folds and a forest on houses of our own."""
    ensemble = pytest.importorskip("sklearn.ensemble")
    linear = pytest.importorskip("sklearn.linear_model")
    pandas = pytest.importorskip("pandas")
    chance = random.Random(seed)
    rows = [[chance.uniform(40, 220), chance.randint(1, 7), chance.uniform(0, 90)] for _ in range(300)]
    prices = [3.1 * area + 21 * rooms - 0.8 * age + chance.gauss(0, 25) for area, rooms, age in rows]
    table = pandas.DataFrame(rows, columns=FEATURES)
    models = {f"fold{n}": linear.Ridge(alpha=n + 1).fit(table[n::3], prices[n::3]) for n in range(3)}
    models["forest"] = ensemble.RandomForestRegressor(40, max_depth=6, random_state=seed).fit(table, prices)
    for name, model in models.items():
        (project / "models").mkdir(exist_ok=True)
        (project / "models" / f"{name}.pkl").write_bytes(pickle.dumps(model))


def write_data(project: Path, features: tuple[str, ...]) -> None:
    """Write a test set with these columns, and the train set that has all."""
    chance, data = random.Random(7), project / "input"
    data.mkdir(exist_ok=True)
    test, sample = [",".join(("id", *features))], ["id,price"]
    for n in range(400):
        values = [chance.uniform(40, 220), chance.randint(1, 7), chance.uniform(0, 90)]
        test.append(",".join((f"house{n:04}", *(f"{value:.1f}" for value in values[: len(features)]))))
        sample.append(f"house{n:04},0.0")
    (data / "test.csv").write_text("\n".join(test) + "\n")
    (data / "train.csv").write_text(",".join(("id", *FEATURES, "price")) + "\n")
    (data / "sample_submission.csv").write_text("\n".join(sample) + "\n")


def rehearse(project: Path, target: Path, *, passes: bool = True) -> None:
    """Build and rehearse in the running environment; `target` is a copy of the report that --open opens."""
    browser = project.parent / "browser.py"
    browser.write_text(COPY.format(python=sys.executable))
    browser.chmod(0o755)
    target.unlink(missing_ok=True)
    env = {"BROWSER": f"{browser} %s", "TARGET": str(target)}
    done = run("rehearse", project, "--env", "current", "--yes", "--open", "--json", env=env)
    assert (done.code == 0) is passes, done.err[-4000:]
    assert (
        target.read_bytes() == (project / "dist" / "offline-kit" / "rehearsal" / "report.html").read_bytes()
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of the sample, of an ensemble at its second rehearsal, and of that project's third, which fails."""
    folder = tmp_path_factory.mktemp("pages")
    targets = {name: folder / f"{name}.html" for name in PAGES}
    ignored = shutil.ignore_patterns("dist", "__pycache__", ".offline-kit")
    sample = shutil.copytree(SAMPLE, folder / "which-digits", ignore=ignored)
    rehearse(sample, targets["sample"])
    houses = folder / "house-prices"
    houses.mkdir()
    (houses / "offline-kit.toml").write_text(CONFIG)
    (houses / "requirements.in").touch()
    write_data(houses, FEATURES)
    for seed in (1, 2):
        write_models(houses, seed)
        rehearse(houses, targets["ensemble"])
    write_data(houses, FEATURES[:2])  # the hidden test set lacks a column
    rehearse(houses, targets["failed"], passes=False)
    return targets


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", PAGES)
def test_a_report_looks_right(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, width: int, scheme: str
) -> None:
    """Nothing is requested or refused, nothing is wider than the window even with all folds open."""
    from PIL import Image, ImageStat

    browser.open(pages[name], width=width, dark=scheme == "dark")
    folder = Path(os.environ.get("REPORT_SHOTS") or tmp_path)
    shot = browser.screenshot(folder / f"{name}-{width}-{scheme}.png")
    for fold in ("false", "true"):
        browser.evaluate(f"document.querySelectorAll('details').forEach(fold => fold.open = {fold})")
        assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.requested() == []
    assert browser.complaints() == []
    assert [line for line in browser.proxy.requests if not any(host in line for host in OWN_SERVICES)] == []
    with Image.open(shot) as picture:
        brightness = ImageStat.Stat(picture.convert("L")).mean[0]
        assert brightness < 80 if scheme == "dark" else brightness > 180
        assert len(picture.convert("RGB").quantize(64).getcolors() or ()) > 20


def test_the_reports_show_what_they_should(pages: dict[str, Path]) -> None:
    """Pictures with predictions, a histogram over the last one, the failed cell with its remedy."""
    sample, ensemble, failed = (pages[name].read_text() for name in PAGES)
    assert sample.count('src="data:image/jpeg;base64,') == 16
    assert "forest.pkl" in ensemble
    assert "400 of 400" in " ".join(ensemble.split())  # all predictions changed with the models
    assert "columns-do-not-fit" in failed
    assert all(len(page) < 3_000_000 for page in (sample, ensemble, failed))


def test_the_browser_reports_what_a_page_requests(browser: Browser, tmp_path: Path) -> None:
    """A page that does ask for something is caught, by the browser's own record and at the proxy."""
    page = tmp_path / "page.html"
    page.write_text("<img src='http://report.test/x.png'><p style='width: 2000px'>wide</p>")
    browser.open(page, width=400)
    assert browser.requested() == ["http://report.test/x.png"]
    assert any("report.test" in line for line in browser.proxy.requests)
    assert browser.evaluate("document.documentElement.scrollWidth") > 400
    browser.proxy.requests.clear()
