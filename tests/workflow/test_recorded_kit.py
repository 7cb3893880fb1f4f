"""Kits made of a recording, by the real command line: built, rendered, looked at, pushed, verified."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offline_kit.adopt import recording
from offline_kit.core import files
from offline_kit.kaggle.client.api_types import NewNotebook
from offline_kit.kaggle.client.session import KaggleEndpoint
from offline_kit.kaggle.push import notebook_runs
from offline_kit.local_kaggle.kernel_runs import RunJob
from offline_kit.project import config
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Role
from offline_kit.workflow import kaggle_session
from tests.support.adopting import notebook_of
from tests.support.local_kaggle import notebook
from tests.support.recordings import RecordedPart
from tests.support.shipping import CONTEST, Yard, yard

CONFIG = f"""
competition = "{CONTEST}"
dataset = "small-kit"
competition_data = "../small-digits/public"

[notebook]
source = "predict.ipynb"
"""
READ_TEST = f"rows = open('/kaggle/input/competitions/{CONTEST}/test.csv').read().splitlines()[1:]"
CELLS = (
    "!pip install -q plain\nimport plain",
    "import json\nsettings = json.load(open('settings.json'))",
    "import os\nfor root, _, names in os.walk('/kaggle/input'):\n    print(root, len(names))",
    READ_TEST,
    "lines = [f\"{row.split(',')[0]},{settings['label']}\" for row in rows]",
    "with open('submission.csv', 'w') as submission:\n    submission.write('\\n'.join(['id,label', *lines]))",
    "print(plain.VERSION)",
)
RECORDER = "local/project-recorder"


def write_project(folder: Path, *cells: str) -> Path:
    """Write a project that adopts a notebook of these cells."""
    notebook_of(folder, *(cells or CELLS), name="predict.ipynb")
    (folder / "offline-kit.toml").write_text(CONFIG)
    return folder


def write_part(
    project: Path,
    target: Path,
    *,
    name: str = "settings.json",
    packed: bytes = b"",
    tag: str = "py3-none-any",
) -> Path:
    """Write what a recorder would write of the project's notebook: a package, and a file beside it."""
    for stale in (project.parent / "recorder", target):
        shutil.rmtree(stale, ignore_errors=True)
    part = RecordedPart(project.parent / "recorder")
    part.document["source"] = recording.describe_source(project, "predict.ipynb")
    part.add_wheel("plain", replaces="0.9", tag=tag)
    part.add_file(f"{{working}}/{name}", b'{"label": 1}', "beside")
    part.add_file("{scratch}/caches/torch/hub/large.pt", b"\0" * (2 << 20))
    if packed:
        part.add_file("{input}/my-models/a.bin", packed, "input")
    changed = [{"path": "{working}/model.pt", **part.add_object(b"weights"), "executable": False}]
    part.add(
        "commands", words=["wget", "-q", "x"], folder="{working}", code=0, output="", changed=changed, cell=1
    )
    part.mount(target)
    return target


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose notebook was recorded on this machine."""
    folder = write_project(tmp_path / "one" / "project")
    write_part(folder, recording.recording_folder(folder))
    recording.write_record(folder)
    return folder


def write_submission(job: RunJob) -> str:
    """Stand for the run of a kit's notebook."""
    (job.folder / "output").mkdir()
    (job.folder / "output" / "submission.csv").write_text("id,label\np1,1\n")
    return ""


@contextmanager
def serve(folder: Path, project: Path) -> Iterator[Yard]:
    """Serve a local Kaggle on which a notebook with the internet on writes the part in <project>/../part."""

    def run_job(job: RunJob) -> str:
        if not job.internet:
            return write_submission(job)
        shutil.copytree(project.parent / "part", job.folder / "output")
        return ""

    folder.mkdir(exist_ok=True)
    with yard(folder, project, runner=run_job) as here:
        yield here


def record_there(here: Yard) -> None:
    """Run the recorder's notebook on the local Kaggle, and keep of its output what the project needs."""
    settings = config.load_config(here.project, {})
    endpoint = KaggleEndpoint(local=here.bench.server.url)
    text = json.dumps(notebook("1 + 1"))
    new = NewNotebook(ref=RECORDER, title="project recorder", text=text, internet=True)
    with kaggle_session.open_session(settings, endpoint, client=here.client) as session:
        _, finished = notebook_runs.push_and_follow(new, session)
        names = [MARKER, f"{recording.PART}/recording.json"]
        session.fetch_outputs(finished, recording.recording_folder(here.project), names)
    recording.write_record(here.project, notebook=RECORDER, version=1, local=True)


def read_code(project: Path) -> list[str]:
    """Return the code cells of the kit's notebook."""
    text = (project / "dist/offline-kit/notebook/inference.ipynb").read_text()
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def test_a_recording_is_the_whole_kit_and_its_cells_stay_as_they_are(tmp_path: Path, project: Path) -> None:
    """The kit has the recording and this version's runtime, and the notebook one cell of at most 25 lines more."""
    (project / "helper.py").write_text("x = 1\n")
    runtime = recording.recording_folder(project) / "offline_kit_runtime" / "kit_runtime.py"
    runtime.write_bytes(b"# " + b"x" * (runtime.stat().st_size - 2))  # of another version
    with serve(tmp_path / "yard", project) as here:
        built = here.run("build", "--json").good().facts
        assert [(pin["name"], pin["version"]) for pin in built["bundled"]] == [("plain", "1.0")]
        (part,) = here.kit.parts
        names = {entry.original for entry in part.entries if entry.role is Role.RECORDING}
        assert (part.name, len(names)) == ("kit", 3)  # document, small objects, one large object
        runtime = here.kit.part_folder(part) / "offline_kit_runtime" / "kit_runtime.py"
        assert b"def open_kit" in runtime.read_bytes()
        setup, *cells = read_code(here.project)
        assert cells == list(CELLS)
        assert len(setup.splitlines()) <= 25
        assert "open_recorded(PARTS)" in setup
        (here.project / "dist/offline-kit/notebook/inference.ipynb").unlink()
        assert here.run("notebook", "--json").good().facts["changed"]
        assert read_code(here.project)[1:] == cells
        assert here.run("status", "--json").good().facts["newer"] == []
        assert not here.run("build", "--json").good().facts["changed"]


def test_what_a_build_says_of_a_recording(tmp_path: Path, project: Path) -> None:
    """What changed since, what is configured beside it, and what does not fit the image, are warnings."""
    with serve(tmp_path / "yard", project) as here:
        here.run("build").good()
        settings = here.project / "offline-kit.toml"
        settings.write_text('checkpoints = ["*.pt"]\nmodules = ["helper.py"]\n' + settings.read_text())
        (here.project / "helper.py").write_text("x = 1\n")
        notebook_of(here.project, *CELLS, "print('new')", name="predict.ipynb")
        findings = here.run("build", "--json").good().facts["findings"]
        assert [finding["severity"] for finding in findings] == ["warn", "warn"]
        assert "'modules', 'checkpoints'" in findings[1]["what"]
        assert read_code(here.project)[-1] == "print('new')"
        part = recording.recording_folder(here.project)
        write_part(here.project, part, name="other.json", tag="cp27-cp27m-win32")
        recording.write_record(here.project)
        assert here.run("status", "--json").good().facts["newer"][0].startswith("the recording changed")
        findings = here.run("build", "--json").good().facts["findings"]
        wheel = "plain-1.0-cp27-cp27m-win32.whl"
        assert [finding["about"] for finding in findings] == [wheel, "predict.ipynb"]
        here.run("rehearse", "--env", "current").failed(1, "error[wheels-do-not-fit]", wheel)


def test_paths_of_packed_inputs_are_the_only_edits(tmp_path: Path) -> None:
    """/kaggle/input is read-only: cells that read what no source has are edited, marked and listed."""
    cells = (
        "ROOT = '/kaggle/input/my-models/'",
        "open('../input/my-models/a.bin')",
        "%%writefile run.sh\ncat /kaggle/input/my-models/a.bin",
        "!umount /kaggle/input/\nshutil.rmtree('/kaggle/input', ignore_errors=True)",
        "open('/kaggle/input/my-models-2/a.bin'), open('/kaggle/input/competitions/x/test.csv')",
    )
    project = write_project(tmp_path / "one" / "project", *cells)
    write_part(project, recording.recording_folder(project), packed=b"model")
    recording.write_record(project)
    with serve(tmp_path / "yard", project) as here:
        here.run("build").good()
        first, second, third, *unchanged = read_code(here.project)[1:]
        assert first.startswith("ROOT = '/tmp/kaggle/input/my-models/'\n# offline-kit: ")
        assert second.startswith("open('/tmp/kaggle/input/my-models/a.bin')\n# offline-kit: ")
        assert third == "%%writefile run.sh\ncat /tmp/kaggle/input/my-models/a.bin"
        assert unchanged == list(cells[3:])


def test_a_secret_in_a_recording_is_not_uploaded(tmp_path: Path) -> None:
    """Files with the names of credentials stop a build, as do keys in the project's own texts."""
    for name in ("settings/.netrc", "config.yaml"):
        project = write_project(tmp_path / name.replace("/", "-") / "project")
        part = RecordedPart(project.parent / "recorder")
        part.document["source"] = recording.describe_source(project, "predict.ipynb")
        key = b"api_key: ghp_" + b"aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2\n"
        part.add_file(f"{{working}}/{name}", key, "beside")
        part.mount(recording.recording_folder(project))
        recording.write_record(project)
        with serve(tmp_path / f"yard-{project.parent.name}", project) as here:
            here.run("build").failed(1, "error[secret-in-upload]", name)


def test_a_recording_of_this_machine_is_pushed_as_the_dataset(tmp_path: Path, project: Path) -> None:
    """Its objects are uploaded under their names, and verified."""
    with serve(tmp_path / "yard", project) as here:
        here.run("build").good()
        here.push().good()
        assert here.holds_the_kit()
        here.run("verify", *here.to).good()
        assert "this kit" in here.run("status", *here.to).good().out


def test_a_recording_on_kaggle_stays_there(tmp_path: Path) -> None:
    """Nothing is uploaded but notebooks: the kit's notebook attaches the recorder's output, which counts as its part."""
    project = write_project(tmp_path / "one" / "project")
    write_part(project, project.parent / "part")
    with serve(tmp_path / "yard", project) as here:
        record_there(here)
        here.run("build").good()
        folder = here.project / "dist/offline-kit"
        assert [path.name for path in (folder / "dataset").rglob("*") if path.is_file()] == [MARKER]
        metadata = json.loads((folder / "notebook/kernel-metadata.json").read_text())
        assert (metadata["dataset_sources"], metadata["kernel_sources"]) == ([], [RECORDER])
        here.push().good()
        assert here.uploaded() == 0
        assert not here.bench.kaggle.store.key_names("datasets", "local")
        assert here.run("status", "--json").good().facts["newer"] == []
        for words in ((), here.to):
            assert f"{RECORDER} version 1" in here.run("status", *words).good().out
        (checked,) = here.run("verify", *here.to, "--json").good().facts["parts"]
        assert (checked["kind"], checked["dataset"], checked["state"]) == ("notebook", RECORDER, "ready")
        recording.write_record(here.project, notebook="somebody/recorder", version=1, local=True)
        here.push("--no-build").failed(1, "error[part-of-other-account]")


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_rehearsal_here_replays_what_stays_there(tmp_path: Path) -> None:
    """It fetches the objects once, and its cells install and read what was recorded."""
    project = write_project(tmp_path / "one" / "project")
    write_part(project, project.parent / "part")
    with serve(tmp_path / "yard", project) as here:
        record_there(here)
        here.run("build").good()
        local = {"OFFLINE_KIT_LOCAL_KAGGLE": here.bench.server.url}
        rehearsal = here.run("rehearse", "--no-build", "--env", "current", "--json", env=local).good()
        facts = rehearsal.facts["rehearsal"]
        assert (facts["rows"], facts["replay"]["packages"]) == (1, [])
        items = files.read_json(Path(facts["folder"]) / "report-facts.json")["kit"]["items"]
        assert {item["name"] for item in items} == {
            "plain",
            "{working}",
            "{scratch}/caches/torch/hub",
            *("wget -q x", "offline-kit"),
        }
        assert Path(facts["submission"]).read_text().split() == ["id,label", "p1,1"]
        downloads = here.calls("DownloadKernelOutput")
        here.run("rehearse", "--no-build", "--env", "current", env=local).good()
        assert here.calls("DownloadKernelOutput") == downloads


def test_the_doctor_asks_for_no_contents_beside_a_recording(tmp_path: Path, project: Path) -> None:
    """Requirements, checkpoints, lock file and own code are skipped; a recording that is not here is a failure."""

    def read_states() -> dict[str, str]:
        checks = here.run("doctor", "--ignore", "K1", "--json").facts["checks"]
        return {check["code"]: check["state"] for check in checks}

    with serve(tmp_path / "yard", project) as here:
        states = read_states()
        assert [states[code] for code in ("K203", "K204", "K206", "K207")] == ["skipped"] * 4
        assert states["K205"] == "ok"
        notebook_of(here.project, "1 + 1", name="predict.ipynb")
        assert read_states()["K205"] == "warning"
        shutil.rmtree(recording.recording_folder(here.project))
        assert read_states()["K205"] == "failed"
