"""Errors that a notebook swallows: found in what ran, and judged by what was predicted."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from offline_kit.core import interpreters
from offline_kit.core.errors import ProjectError
from offline_kit.project.images import Image
from offline_kit.rehearsal import swallowed_errors
from tests.rehearsal.test_rehearse import WRITE, Theatre
from tests.support.verdicts import cell, judge, ran

pytestmark = pytest.mark.usefixtures("python_313")  # the image's; errors are watched from 3.12 on

SWALLOWS = {
    "bare": "try:\n    open('no-weights')\nexcept:\n    pass",
    "of every kind": "try:\n    open('no-weights')\nexcept (ValueError, Exception) as error:\n    print(error)",
    "in a function": "def load():\n    try:\n        return open('no-weights')\n    except Exception:\n        return None\nload()",
    "behind another": "try:\n    open('no-weights')\nexcept KeyError:\n    raise\nexcept BaseException:\n    x = 0",
    "from below": "def load_below():\n    with open('no-weights') as stream:\n        return stream\ntry:\n    load_below()\nexcept Exception:\n    pass",
}
HONEST = {
    "one kind": "try:\n    open('no-weights')\nexcept FileNotFoundError:\n    pass",
    "raised again": "try:\n    try:\n        open('no-weights')\n    except Exception:\n        raise\nexcept OSError:\n    pass",
    "an optional import": "try:\n    import no_such_module\nexcept ImportError:\n    pass",
    "nothing happened": "try:\n    x = 1\nexcept Exception:\n    pass",
    "an iteration": "for x in (y for y in [1]):\n    pass\nassert next(iter(()), None) is None",
    "a library": "import json, posixpath\nassert not posixpath.exists('no-weights')",
    "cleaned up": "try:\n    try:\n        open('no-weights')\n    finally:\n        x = 1\nexcept OSError:\n    pass",
}


def watch(folder: Path, cells: Mapping[str, str]) -> list[str]:
    """Run cells in files, named as ipykernel names them, under the monitor; return what they swallowed."""
    out = folder / "out"
    swallowed_errors.install_monitor(out, ["plants"])
    (monitor,) = (out / "ipython" / "profile_default" / "startup").iterdir()
    code = [monitor.read_text()]
    for number, (label, source) in enumerate(cells.items()):
        path = folder / (label if label.endswith(".py") else f"ipykernel_{number}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        code.append(f"import runpy; runpy.run_path({str(path)!r})")
    env, python = {**os.environ, "IPYTHONDIR": str(out / "ipython")}, interpreters.find_interpreter("3.13")
    assert python
    subprocess.run([python, "-c", "\n".join(code)], env=env, cwd=folder, check=True)
    return swallowed_errors.list_swallowed_errors(out, cells)


def test_swallowed_errors_are_listed_with_their_cells(tmp_path: Path) -> None:
    """However it is written, the failing line and its error are known."""
    cells = {name: source.replace("weights", name) for name, source in SWALLOWS.items()}
    lines = watch(tmp_path, cells)
    assert {line.partition(",")[0] for line in lines} == cells.keys()
    assert all("FileNotFoundError" in line for line in lines)


def test_handled_errors_are_no_alarm(tmp_path: Path) -> None:
    """Who names the kind of an error, raises it again or meets none swallows nothing."""
    assert watch(tmp_path, HONEST) == []


def test_errors_of_a_loop_are_counted(tmp_path: Path) -> None:
    """One line for all inputs that failed in the same way."""
    loop = "for name in 'aaa':\n    try:\n        open(name)\n    except Exception:\n        y = 0.0"
    (line,) = watch(tmp_path, {"cell 1": "import os", "cell 2": loop})
    assert line.startswith("cell 2,")
    assert "(3 times)" in line


def test_modules_and_packages_of_the_project_are_watched_and_others_are_not(tmp_path: Path) -> None:
    """A library may swallow what it wants; code of the project's own is named by its file."""
    places = ("kit/code/loader.py", "site/plants/model.py", "site/library/cache.py", "site/plants_more.py")
    lines = watch(tmp_path, {f"offline-kit/{path}": SWALLOWS["bare"] for path in places})
    assert {line.partition(",")[0] for line in lines} == {"'loader.py'", "'model.py'"}


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (["a,0", "b,0", "c,0"], "errors-swallowed"),  # every input failed: zeros
        (["a,0.5", "b,0.5", "c,0.5"], "errors-swallowed"),  # a fallback to the sample's values
        (["a,0", "b,0.4", "c,0.7"], ""),  # some failed, the rest is predicted
    ],
)
def test_placeholders_after_a_swallowed_error_fail_the_rehearsal(
    tmp_path: Path, rows: list[str], code: str
) -> None:
    """Zeros or the sample's values with an error behind them are no predictions; other predictions get a warning."""
    done = ran(tmp_path, cell("model.predict(x)", "completed"))
    sample, text = tmp_path / "sample.csv", "\n".join(["id,y", *rows])
    sample.write_text("id,y\na,0.5\nb,0.5\nc,0.5\n")
    (done.working / "submission.csv").write_text(text)
    assert judge(done, sample).problem is None, "without a swallowed error it may be meant"
    record = tmp_path / "ipython" / "swallowed.jsonl"
    record.parent.mkdir()
    record.write_text(
        json.dumps({"file": "", "source": "model.predict(x)", "error": "ValueError: x"}) + "\n{"
    )
    judged = judge(done, sample)
    assert (judged.problem.code if judged.problem else "") == code
    assert sum("errors-swallowed" in line for line in judged.warnings) == 2
    assert sum("predictions-constant" in line for line in judged.warnings) == (1 if code else 0)


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.index
def test_zeros_after_a_swallowed_error_in_a_real_kernel(tmp_path: Path) -> None:
    """The cell that fell back is named, and the monitor leaves no variable in the notebook."""
    image = Image(
        name="other",
        title="other",
        accelerator="none",
        python="3.13.0",
        packages={"ipykernel": "6.29.5", "pip": "24.1.2"},
    )
    names = "assert not {'ast', 'json', 'sys', 'watch_errors'} & globals().keys(), sorted(globals())"
    load = "try:\n    model = open('/kaggle/input/no-such-model')\nexcept Exception:\n    model = None"
    theatre = Theatre(tmp_path, tmp_path / "cache")
    kit = theatre.kit(names, load, WRITE, plan={"python": "3.13"})
    with pytest.raises(ProjectError) as caught:
        theatre.rehearse(kit, env="matching", image=image)
    assert caught.value.code == "errors-swallowed"
    assert "no-such-model" in " ".join(caught.value.details)
    assert any(line.startswith("cell 3,") for line in caught.value.details)
