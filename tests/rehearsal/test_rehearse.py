"""The rehearsal of a kit: a notebook run offline, judged, its evidence kept."""

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from offline_kit.core import processes, sandbox
from offline_kit.core.errors import OfflineKitError, ProjectError
from offline_kit.kit import manifest
from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.local_kaggle.sandbox_runner import SandboxRunner
from offline_kit.packages import pip_settings
from offline_kit.project.accelerators import find_machine
from offline_kit.project.images import Image, load_image
from offline_kit.project.types import FileEntry, Kit, Role
from offline_kit.rehearsal import rehearse as stage
from offline_kit.rehearsal.environments import EnvironmentOptions
from offline_kit.rehearsal.rehearse import Rehearsal
from offline_kit.rehearsal.request import RehearsalRequest
from tests.support.local_index import make_wheel

NB: Any = nbformat  # it has types for half of itself
ALL = sandbox.KINDS[:-1]


def works(kind: str) -> bool:
    try:
        return sandbox.find_sandbox([kind]).kind == kind
    except OfflineKitError:
        return False


pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.index,
    pytest.mark.skipif(not any(map(works, ALL)), reason="no real sandbox works on this machine"),
]

WRITE = """
import csv
with open("/kaggle/input/competitions/digits/sample_submission.csv") as stream:
    ids = [row["id"] for row in csv.DictReader(stream)]
with open("submission.csv", "w") as stream:
    stream.write("id,label\\n" + "".join(f"{name},1\\n" for name in ids))
"""

SCRIPT = (
    "%%writefile infer.py\nimport readerlib\nreaderlib.read()",
    "!{__import__('sys').executable} infer.py",
)


def image(**packages: str) -> Image:
    """An image of the running Python with these packages."""
    return Image(
        name="here",
        title="here",
        accelerator="none",
        python="{}.{}.{}".format(*sys.version_info),
        packages={name.replace("_", "-"): version for name, version in packages.items()},
    )


class Theatre:
    """A project folder with a kit by hand and a competition's data."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self.data = folder / "input"
        self.data.mkdir()
        rows = "".join(f"{n}.png,0\n" for n in range(5))
        (self.data / "sample_submission.csv").write_text(f"id,label\n{rows}")
        (self.data / "test.csv").write_text("id,width\n" + rows)

    def kit(self, *cells: str, files: Mapping[str, bytes] | None = None, plan: Any = None) -> Kit:
        out = self.folder / "dist"
        plan = {
            "format": 1,
            "image": "here",
            "python": "3.11",
            "install": [],
            "provided": [],
            "roots": [],
        } | (plan or {})
        content = {"packages/install.json": json.dumps(plan).encode(), **(files or {})}
        entries = []
        for name, data in content.items():
            path = out / "dataset" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            roles = {"packages/install.json": Role.LOCK, "packages": Role.WHEEL, "code": Role.SOURCE}
            role = roles.get(name) or roles.get(name.partition("/")[0], Role.CHECKPOINT)
            digest = hashlib.sha256(data).hexdigest()
            entries.append(FileEntry(role=role, original=name, stored=name, size=len(data), sha256=digest))
        part = manifest.make_part("kit", entries)
        manifest.write_manifest(out / "dataset", part)
        (out / "notebook").mkdir(exist_ok=True)
        notebook = NB.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        )
        notebook.cells = [NB.v4.new_markdown_cell("# a kit"), *map(NB.v4.new_code_cell, cells)]
        NB.write(notebook, out / "notebook" / "inference.ipynb")
        metadata = {
            "code_file": "inference.ipynb",
            "dataset_sources": ["me/plant-kit"],
            "competition_sources": ["digits"],
        }
        (out / "notebook" / "kernel-metadata.json").write_text(json.dumps(metadata))
        return Kit(folder=out, id=manifest.compute_kit_id([part.id]), parts=(part,))

    def script(self, text: str) -> Kit:
        """Return a kit whose code is a script."""
        kit = self.kit()
        folder = kit.folder / "notebook"
        (folder / "inference.py").write_text(text)
        metadata = json.loads((folder / "kernel-metadata.json").read_text())
        metadata |= {"code_file": "inference.py", "kernel_type": "script"}
        (folder / "kernel-metadata.json").write_text(json.dumps(metadata))
        return kit

    def rehearse(self, kit: Kit, **more: Any) -> Rehearsal:
        wishes = {
            "dataset": "me/plant-kit",
            "env": "current",
            "competition_data": self.data,
            "image": image(),
            "timeout": 120,
            **more,
        }
        settings = wishes.pop("settings", None) or pip_settings.read_pip_settings(
            processes.copy_environment()
        )
        return stage.rehearse_kit(RehearsalRequest(kit=kit, **wishes), settings, cache=self.cache)

    def failure(self, *cells: str, **more: Any) -> ProjectError:
        with pytest.raises(ProjectError) as caught:
            self.rehearse(self.kit(*cells), **more)
        return caught.value


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all: the environments are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def theatre(tmp_path: Path, cache: Path) -> Theatre:
    return Theatre(tmp_path, cache)


def said(kit: Kit) -> str:
    return (kit.folder / "rehearsal" / "log.txt").read_text()


LOOK = """
import json, os, shutil, socket
found = {"env": sorted(os.environ), "home": os.listdir(os.environ["HOME"]), "tmp": os.listdir("/tmp"), "cwd": os.getcwd()}
found["working"], found["uv"] = os.listdir("/kaggle/working"), bool(shutil.which("uv"))
for name, work in {
    "connect": lambda: socket.create_connection(("1.1.1.1", 443), timeout=5),
    "dns": lambda: socket.getaddrinfo("pypi.org", 443),
    "input": lambda: open("/kaggle/input/x", "w"),
    "datasets": lambda: open("/kaggle/input/datasets/me/plant-kit/x", "w"),
    "data": lambda: open("/kaggle/input/competitions/digits/test.csv", "a"),
}.items():
    try:
        work()
        found[name] = "worked"
    except OSError as error:
        found[name] = str(error)
found["kit"] = sorted(os.listdir("/kaggle/input/datasets/me/plant-kit"))
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Theatre, Kit, Rehearsal]:
    """Rehearse a good kit beside what a killed rehearsal left, with a credential in the environment; look at the result only."""
    theatre = Theatre(tmp_path_factory.mktemp("good"), cache)
    kit = theatre.kit(LOOK, "print('note: twice'); print('note: twice')", WRITE)
    (kit.folder / ".rehearsal.abcd1234.part" / "run").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAGGLE_KEY", "secret-of-the-parent")
        return theatre, kit, theatre.rehearse(kit)


def test_a_good_kit_passes_and_its_evidence_is_kept(good: tuple[Theatre, Kit, Rehearsal]) -> None:
    """The submission, the executed notebook, the log and a report lie in the kit's folder; the run's own files are gone."""
    _, kit, done = good
    assert sorted(path.name for path in done.folder.iterdir()) == [
        "executed.ipynb",
        "log.txt",
        "receipt.json",
        "report-facts.json",
        "report.html",
        "report.json",
        "submission.csv",
    ]
    assert done.rows == 5
    assert done.submission.read_text().count("\n") == 6
    assert len(done.cell_seconds) == 3
    assert done.notes.count("twice") == 1
    assert done.peak_memory > 20_000_000
    report, receipt = (
        json.loads((done.folder / name).read_text()) for name in ("report.json", "receipt.json")
    )
    assert stage.read_last_report(kit) == report
    assert receipt.items() <= report.items()
    assert (receipt["kit"], receipt["passed"], receipt["packages_hash"]) == (
        kit.id,
        True,
        image().packages_hash,
    )
    assert receipt["limits"]["seconds"] == 120


def test_what_a_killed_rehearsal_left_goes_with_the_next(good: tuple[Theatre, Kit, Rehearsal]) -> None:
    """Half a run's folder of a killed process does not stay in the kit."""
    _, kit, _ = good
    assert sorted(path.name for path in kit.folder.iterdir()) == ["dataset", "notebook", "rehearsal"]


def test_the_run_is_offline_with_read_only_inputs_and_a_clean_environment(
    good: tuple[Theatre, Kit, Rehearsal],
) -> None:
    """What the notebook itself finds out: no network, nothing writable below the inputs, no credential, an empty home."""
    theatre, kit, _ = good
    line = next(line for line in said(kit).splitlines() if line.startswith("FOUND"))
    found = json.loads(line.removeprefix("FOUND"))
    assert "KAGGLE_KEY" not in found["env"]
    assert "KAGGLE_KERNEL_RUN_TYPE" in found["env"]
    assert not [name for name in found["env"] if name.startswith(("PIP_", "UV_", "SSH"))]
    assert (found["home"], found["working"], found["cwd"]) == ([], [], "/kaggle/working")
    assert found["uv"]
    assert "unreachable" in found["connect"]
    assert "name resolution" in found["dns"]
    assert {found[name].partition("] ")[2].partition(":")[0] for name in ("input", "datasets", "data")} == {
        "Read-only file system"
    }
    assert found["kit"] == ["offline-kit.json", "packages"]
    assert (theatre.data / "test.csv").read_text().startswith("id,width")


def test_a_failing_cell_is_quoted_with_cause_and_remedy(theatre: Theatre) -> None:
    """The error names the cell, quotes it and its error, and says what helps; the evidence is kept."""
    error = theatre.failure("x = 1", "import not_in_the_kit\nprint(x)")
    assert error.what == "cell 3 failed"
    assert "    import not_in_the_kit" in error.details
    assert any("ModuleNotFoundError" in line for line in error.details)
    assert any("cause: the module 'not_in_the_kit'" in line for line in error.details)
    assert "requirements" in error.hint
    assert Path(error.details[-2].removeprefix("full log: ")).is_file()
    assert (theatre.folder / "dist" / "rehearsal" / "executed.ipynb").is_file()
    assert "Failed" in (theatre.folder / "dist" / "rehearsal" / "report.html").read_text()
    report = json.loads((theatre.folder / "dist" / "rehearsal" / "report.json").read_text())
    assert report["passed"] is False
    assert report["problem"]["what"] == error.what
    receipt = json.loads((theatre.folder / "dist" / "rehearsal" / "receipt.json").read_text())
    assert receipt["problem"] == {"code": error.code, "what": error.what}


LEFT = {
    "links and odd names": (
        "import os; os.symlink('{}', 'submission.csv'); os.symlink('/etc', 'etc'); open(b'\\xff', 'w'); open('other.csv', 'w')"
    ),
    "a swapped copy of the run": (
        "import atexit, os, time\nopen('submission.csv', 'w').write('id,label\\n')\n"
        "if not os.fork():\n    os.setsid()\n    while True:\n        open('/rehearsal/out/executed.ipynb', 'w').write('[1]')"
    ),
}  # fmt: skip
"""What else may be left is in tests/core/test_leftovers.py."""


@pytest.mark.parametrize("way", LEFT)
def test_what_the_box_leaves_is_not_trusted(theatre: Theatre, way: str) -> None:
    """A link is not followed, a swapped file not believed: the run fails with one sentence."""
    secret = theatre.folder / "kaggle.json"
    secret.write_text("a-secret-of-this-machine")
    error = theatre.failure(LEFT[way].replace("{}", str(secret)))
    assert error.what
    rehearsal = theatre.folder / "dist" / "rehearsal"
    assert not any(path.is_symlink() for path in rehearsal.rglob("*"))
    assert not any(b"a-secret" in path.read_bytes() for path in rehearsal.rglob("*.csv"))
    assert json.loads((rehearsal / "report.json").read_text())["passed"] is False


@pytest.mark.slow
def test_a_wrong_submission_is_an_error_and_is_kept(theatre: Theatre) -> None:
    """All that is wrong with it is told at once."""
    error = theatre.failure("open('submission.csv', 'w').write('id,label\\n0.png,nan\\n9.png,2\\n')")
    text = "\n".join(error.details)
    assert "2 rows instead of 5" in text
    assert "NaN" in text
    assert "9.png" in text
    assert (theatre.folder / "dist" / "rehearsal" / "submission.csv").is_file()


@pytest.mark.slow
def test_the_time_limit_names_the_cell(theatre: Theatre) -> None:
    """A run that takes too long is ended, and the error says where it was."""
    error = theatre.failure("1", "import time\ntime.sleep(300)", timeout=6)
    assert "6 s" in error.what
    assert "cell 3" in error.what
    assert "    time.sleep(300)" in error.details


@pytest.mark.slow
def test_the_memory_limit_is_told(theatre: Theatre) -> None:
    """A run above its memory limit is ended and says so."""
    machine = replace(find_machine(""), memory=600_000_000)
    error = theatre.failure(
        "x = bytearray(b'1') * 900_000_000\nimport time; time.sleep(300)", machine=machine
    )
    assert error.code == "memory-limit-reached"
    assert "600.0 MB" in error.what


@pytest.mark.slow
def test_a_full_working_folder_names_the_cell(theatre: Theatre) -> None:
    """A run that writes more than Kaggle saves is ended, with the cell, its files, and the memory until then."""
    cell = "import os, time\nfor name in 'abc':\n    open(name, 'wb').write(os.urandom(4_000_000))\ntime.sleep(300)"
    error = theatre.failure("1", cell, machine=replace(find_machine(""), disk=10_000_000))
    assert error.code == "disk-limit-reached"
    assert "cell 3" in error.what
    assert {"4.0 MB: a", "3 files", "    time.sleep(300)"} <= set(error.details)
    facts = json.loads((theatre.folder / "dist" / "rehearsal" / "report-facts.json").read_text())
    assert facts["curve"]
    assert facts["limits"]["disk"] == 10_000_000


def test_a_dead_kernel_is_told(theatre: Theatre) -> None:
    """A kernel that is killed ends in an error with the cause, not in a hang."""
    error = theatre.failure("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert "kernel died in cell 2" in error.what
    assert any("ran out of memory" in line for line in error.details)


def test_the_old_layout_a_part_of_the_rows_and_pip_alone(theatre: Theatre) -> None:
    """In the old layout sources lie directly below the inputs; --rows cuts the test set; with pip there is no uv."""
    look = "import os; print(os.listdir('/kaggle/input')); print('UV', os.path.exists('/rehearsal/bin/uv'))"
    kit = theatre.kit(look, WRITE.replace("competitions/", ""))
    done = theatre.rehearse(kit, layout="old", rows=2, installer="pip")
    assert done.rows == 2
    assert "'plant-kit'" in said(kit)
    assert "UV False" in said(kit)
    assert (theatre.data / "sample_submission.csv").read_text().count("\n") == 6


def test_wheels_of_another_python_are_named_instead_of_a_pretended_run(theatre: Theatre) -> None:
    """A kit whose wheels cannot run on the running Python says so before anything is run."""
    wheel = "x-1.0-cp399-cp399-manylinux_2_17_x86_64.whl"
    plan: dict[str, Any] = {
        "install": [
            {"name": "x", "version": "1.0", "wheel": wheel, "sdist": None, "build": [], "imports": ["x"]}
        ]
    }
    with pytest.raises(ProjectError) as caught:
        theatre.rehearse(theatre.kit("1", plan=plan))
    assert caught.value.details == (wheel,)
    assert "--env matching" in caught.value.hint


@pytest.mark.slow
def test_the_weak_sandbox_runs_it_too(theatre: Theatre) -> None:
    """Without namespaces the notebook's own switches lead it to its inputs; the report calls the sandbox weak."""
    code = WRITE.replace('open("/kaggle/input', 'open(os.environ["OFFLINE_KIT_INPUT"] + "').replace(
        "import csv", "import csv, os"
    )
    done = theatre.rehearse(theatre.kit(code), sandboxes=("weak",))
    assert done.sandbox == "weak"
    assert done.rows == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "weak"])
def test_a_notebook_may_install_its_own_wheels(theatre: Theatre, kind: str) -> None:
    """As on Kaggle: what the environment has satisfies them, another version of it is replaced, and only in this run."""
    pytest.importorskip("pip")
    wheels = theatre.data / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "ownttach", "0.0.2", requires=["packaging"])
    make_wheel(wheels, "iniconfig", "99.0", files={"iniconfig/__init__.py": "NEW = True"})
    versions = "(m.version('ownttach'), m.version('iniconfig'), iniconfig.NEW) == ('0.0.2', '99.0', True)"
    cells = (
        "import os, pathlib\nroot = pathlib.Path(os.environ.get('OFFLINE_KIT_INPUT', '/kaggle/input'))",
        "!pip install -q --no-index --find-links={root}/competitions/digits/wheels ownttach iniconfig==99",
        f"import importlib.metadata as m, ownttach, iniconfig, packaging\nassert {versions}",
        WRITE.replace('"/kaggle/input/', 'root / "'),
    )
    more = {"sandboxes": (kind,)} if kind else {}
    theatre.rehearse(theatre.kit(*cells), **more)
    assert importlib.metadata.version("iniconfig") != "99.0"


@pytest.mark.slow
def test_an_image_of_another_python_is_rehearsed_in_one_made_for_it(theatre: Theatre) -> None:
    """The kernel runs the image's Python with the image's versions, which this environment need not have."""
    other = Image(
        name="other",
        title="other",
        accelerator="none",
        python="3.13.0",
        packages={"ipykernel": "6.29.5", "pip": "24.1.2", "pyyaml": "6.0.2"},
    )
    kit = theatre.kit(
        "import sys, yaml, pip; print(sys.version, yaml.__version__, pip.__version__)",
        WRITE,
        plan={"python": "3.13"},
    )
    try:
        done = theatre.rehearse(kit, env="matching", image=other)
    except ProjectError as error:
        if "this machine has none" in error.what:
            pytest.skip("no Python 3.13 here")
        raise
    assert done.python.startswith("3.13")
    assert done.fidelity == "matching"
    assert "6.0.2 24.1.2" in said(kit)


def local_index(folder: Path) -> Path:
    """A folder of wheels: a library that imports another one late, and that other one."""
    late = "def read():\n    try:\n        import enginelib\n    except ImportError:\n"
    late += "        raise ImportError(\"Missing optional dependency 'enginelib'. Use pip to install it.\") from None\n"
    make_wheel(folder / "wheels", "readerlib", "1.0", files={"readerlib.py": late})
    return make_wheel(folder / "wheels", "enginelib", "1.0").parent


@pytest.mark.slow
@pytest.mark.parametrize(
    "cells",
    [("import readerlib\nreaderlib.read()",), SCRIPT, ("__import__('engine' + 'lib')", "1", "2")],
    ids=["cell", "script", "an import that the code does not show"],
)
def test_what_a_run_lacked_of_the_image_is_added_and_it_runs_again(
    theatre: Theatre, cells: tuple[str, ...]
) -> None:
    """An engine that a library imports by itself is the environment's to have; the next rehearsal knows it at once."""
    wheels = local_index(theatre.folder)
    settings = pip_settings.read_pip_settings(processes.copy_environment(PIP_FIND_LINKS=str(wheels)))
    kit = theatre.kit(*cells, WRITE)
    name = f"here-{len(cells)}"  # what was lacked before is known for an image
    more = {"env": "matching", "image": replace(image(readerlib="1.0", enginelib="1.0"), name=name)}
    done = theatre.rehearse(kit, settings=settings, **more)
    assert any(note.startswith("added enginelib") for note in done.notes)
    again = theatre.rehearse(kit, settings=settings, **more)
    assert not any(note.startswith("added") for note in again.notes)


@pytest.mark.slow
def test_the_local_kaggle_runs_a_kit_in_the_environment_of_its_rehearsal(
    theatre: Theatre, tmp_path: Path
) -> None:
    """A loose module's import counts there as well, and nothing is resolved or installed a second time."""
    wheels = local_index(theatre.folder)
    python = "{}.{}.{}".format(*sys.version_info)
    text = f'name = "image.toml"\npython = "{python}"\npackages = "readerlib==1.0"\n'
    (theatre.folder / "image.toml").write_text(text)
    use = "import sys; sys.path.append('/kaggle/input/datasets/me/plant-kit/code'); import loose"
    code = {"code/loose.py": b"import readerlib\n"}
    kit = theatre.kit(use, WRITE, files=code, plan={"image": "image.toml"})
    settings = pip_settings.read_pip_settings(processes.copy_environment(PIP_FIND_LINKS=str(wheels)))
    listed = load_image("image.toml", accelerator="none", project=theatre.folder)
    theatre.rehearse(kit, settings=settings, env="matching", image=listed)
    before = sorted(path.name for path in (theatre.cache / "environments").glob("*-*"))
    shop = EnvironmentOptions(index=settings, cache=theatre.cache, yes=True)
    (tmp_path / "job").mkdir()
    job = RunJob(
        notebook=(kit.folder / "notebook" / "inference.ipynb").read_text(),
        inputs=(("datasets/me/plant-kit", kit.folder / "dataset"), ("competitions/digits", theatre.data)),
        folder=tmp_path / "job",
        timeout=120,
    )
    assert SandboxRunner(shop, project=theatre.folder)(job) == ""
    assert (tmp_path / "job" / "output" / "submission.csv").is_file()
    assert sorted(path.name for path in (theatre.cache / "environments").glob("*-*")) == before


def test_a_script_runs_in_plain_python_under_kaggles_name(theatre: Theatre) -> None:
    """It is `__main__` in a file of Kaggle's, alone in a read-only folder, and starts in the working folder."""
    look = """
import json, os, sys
found = {"name": __name__, "file": __file__, "argv": sys.argv, "cwd": os.getcwd(), "beside": os.listdir("/kaggle/src")}
found["ipython"], found["path"] = "IPython" in sys.modules, sys.path[0]
try:
    open("/kaggle/src/x", "w")
except OSError as error:
    found["written"] = error.strerror
print("FOUND" + json.dumps(found))
"""
    kit = theatre.script(look + WRITE)
    done = theatre.rehearse(kit)
    found = json.loads(said(kit).partition("FOUND")[2].splitlines()[0])
    path = "/kaggle/src/script.py"
    assert found == {
        "name": "__main__",
        "file": path,
        "argv": [path],
        "cwd": "/kaggle/working",
        "beside": ["script.py"],
        "ipython": False,
        "path": "/kaggle/src",
        "written": "Read-only file system",
    }
    assert (done.rows, len(done.cell_seconds)) == (5, 1)
    names = [
        "log.txt",
        "receipt.json",
        "report-facts.json",
        "report.html",
        "report.json",
        "script.py",
        "submission.csv",
    ]
    assert sorted(path.name for path in done.folder.iterdir()) == names
    page = (done.folder / "report.html").read_text()
    assert "The executed script" in page
    assert "FOUND{" in page, "its log is its output"


def test_a_script_that_fails_is_quoted_at_its_line(theatre: Theatre) -> None:
    """The line, what stands around it, the frame in the user's own module, the cause and the remedy."""
    kit = theatre.script("import json\n\n\ndef read():\n    import no_such_thing\n\n\nread()\n")
    with pytest.raises(ProjectError) as caught:
        theatre.rehearse(kit)
    assert caught.value.code == "module-not-found"
    assert caught.value.what == "line 5 of the script failed"
    assert "  >     import no_such_thing" in caught.value.details
    assert (stage.read_last_report(kit) or {})["problem"]["code"] == "module-not-found"


def test_a_script_reaches_its_time_limit(theatre: Theatre) -> None:
    """It is stopped, and the limit is named."""
    with pytest.raises(ProjectError) as caught:
        theatre.rehearse(theatre.script("import time\ntime.sleep(600)\n"), timeout=1)
    assert caught.value.code == "time-limit-reached"


def test_a_script_that_exits_has_failed(theatre: Theatre) -> None:
    """An exit code is a failure, as on Kaggle, whatever was written before; what it printed last is shown."""
    with pytest.raises(ProjectError) as caught:
        theatre.rehearse(theatre.script(WRITE + "import os\nprint('no model')\nos._exit(3)\n"))
    assert caught.value.code == "notebook-failed"
    assert "no model" in caught.value.details


@pytest.mark.slow
def test_a_stored_answer_fails_the_hidden_run(theatre: Theatre) -> None:
    """The public run passes; the evidence is that of the second run, and the report has both."""
    answer = "id,label\n" + "".join(f"{number}.png,{number}\n" for number in range(5))
    stored = f'open("submission.csv", "w").write({answer!r})'
    error = theatre.failure(
        "import os\nprint(os.environ.get('KAGGLE_IS_COMPETITION_RERUN'))", stored, hidden="auto"
    )
    folder = theatre.folder / "dist" / "rehearsal"
    hidden = json.loads((folder / "report.json").read_text())["hidden"]
    assert error.code == "hidden-run-failed"
    assert hidden["problem"] == "submission-invalid"
    assert [session["rows"] for session in hidden["sessions"]] == [5, 5]
    assert all(session["seconds"] for session in hidden["sessions"])
    assert "\n1\n" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_code_that_reads_the_test_set_passes_the_hidden_run(theatre: Theatre) -> None:
    """The submission that is kept is the public one."""
    done = theatre.rehearse(theatre.kit(WRITE), hidden="auto:3", hidden_rows=40)
    assert done.hidden
    assert done.hidden["problem"] == ""
    assert [session["rows"] for session in done.hidden["sessions"]] == [5, 40]
    assert done.forecast
    assert (done.forecast["rows"], done.forecast["problem"]) == (40, "")
    assert done.rows == 5
    assert 'id="hidden"' in done.report.read_text()
