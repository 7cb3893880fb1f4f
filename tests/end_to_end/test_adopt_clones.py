"""A notebook that clones, steps into its clones, installs and downloads there: adopted, it runs offline as it was."""

import subprocess
from pathlib import Path

import nbformat
import pytest

from tests.support.workbench import run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

SETUP = """import json, os, sys
if not os.path.exists('weights'):
    os.mkdir('weights')
!rm -rf cool-aug
!git clone -q https://example.org/someone/cool-aug.git
%cd cool-aug
!pip install -q -r requirements.txt
FACTOR = json.load(open('conf.json'))['factor']
%cd ..
!wget -q https://example.org/head.json -P weights
!wget -q https://example.org/tail.json -O /tmp/tail.json
"""
INSTALL = "%%bash\nset -e\nrm -rf fork\ngit clone -b v2 {} fork\ncd fork\npip install -e .\n"
USE = """sys.path.append('/kaggle/working/cool-aug/lib')
from coolaug import flip
import other_name
from word2number import w2n
!python /kaggle/working/cool-aug/run.py --of weights/head.json > out.txt
open('/kaggle/working/cool-aug/conf.json', 'w').write('{}')
tail = json.load(open('/tmp/tail.json'))
print(os.getcwd(), sorted(os.listdir('.')))
y = [FACTOR, flip(1), other_name.V, w2n.word_to_num('two'), int(open('out.txt').read()), tail]
open('submission.csv', 'w').write('id,y\\n' + ''.join(f'{n},{v}\\n' for n, v in enumerate(y)))
"""
FILES = {
    "cool-aug/lib/coolaug.py": "def flip(x):\n    return -x\n",
    "cool-aug/run.py": "import json, sys\nprint(json.load(open(sys.argv[2])))\n",
    "cool-aug/conf.json": '{"factor": 5}',
    "cool-aug/requirements.txt": "word2number\n",
    "weights/head.json": "7",
    "tail.json": "9",
}


def repository(folder: Path) -> str:
    """Make a repository whose package is called neither as its folder nor as what is imported, at a branch."""
    (folder / "other_name").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "real-dist-name"\nversion = "2.0"\n[tool.setuptools]\npackages = ["other_name"]\n'
    )
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for version in (1, 2):
        (folder / "other_name" / "__init__.py").write_text(f"V = {version}\n")
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["branch", f"v{version}"]):
            subprocess.run([*git, *words], check=True)
    (folder / "other_name" / "__init__.py").write_text("V = 3\n")
    subprocess.run([*git, "commit", "-qam", "x"], check=True)
    return folder.as_uri()


def test_clones_and_downloads_lie_where_they_were(tmp_path: Path) -> None:
    """Adopted once, it asks for what it fetches; with that beside it, it is built and predicts what it did online."""
    project = tmp_path / "project"
    project.mkdir()
    cells = [SETUP, INSTALL.format(repository(tmp_path / "repository")), USE]
    made = [nbformat.v4.new_code_cell(source) for source in cells]  # type: ignore[no-untyped-call]
    nbformat.write(nbformat.v4.new_notebook(cells=made), project / "inference.ipynb")  # type: ignore[no-untyped-call]
    said = run("adopt", "inference.ipynb", "--write", "--json", cwd=project).facts
    assert said["asked"] > 0
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    again = run("adopt", "inference.ipynb", "--write", "--json", cwd=project)
    said = again.facts
    assert (again.code, said["asked"]) == (1, 0), said["found"]
    config = project / "offline-kit.toml"
    own, whole = '["requirements.in"]', '["requirements.in", "cool-aug/requirements.txt"]'
    assert whole in str(said), "a list that is there already is the person's, who is told the line"
    config.write_text(config.read_text().replace(own, whole))
    run("adopt", "inference.ipynb", "--write", cwd=project).good()
    run("rehearse", project, "--env", "current", "--yes").good()
    written = (project / "dist" / "offline-kit" / "rehearsal" / "submission.csv").read_text()
    assert written.splitlines()[1:] == ["0,5", "1,-1", "2,2", "3,2", "4,7", "5,9"]
