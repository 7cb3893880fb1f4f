"""A notebook that needs the internet, adopted: rehearsed offline, it predicts what its author saw."""

import csv
import json
import os
import subprocess
from pathlib import Path

import nbformat
import pytest

from offline_kit.core import files
from offline_kit.packages import pip_settings
from offline_kit.project import images
from offline_kit.rehearsal import environments
from tests.support.workbench import IMAGE, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox, pytest.mark.usefixtures("python_313")]

AUTHOR = """
import csv, json, os
import numpy as np, timm, torch
from PIL import Image

torch.manual_seed(7)
net = timm.create_model("test_resnet", pretrained=False, num_classes=3)
os.makedirs("weights"), os.makedirs("input/shapes-2026/test"), os.makedirs("input/shape-names")
torch.save(net.state_dict(), "weights/net.pth")
json.dump(["disc", "ring", "star"], open("input/shape-names/names.json", "w"))
net.eval()
random = np.random.default_rng(3)
rows = []
for number in range(12):
    pixels = random.integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(f"input/shapes-2026/test/{number}.png")
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        rows.append([number, *((net(x) + net(torch.flip(x, dims=[3]))) / 2)[0].tolist()])
for name, shown in (("input/shapes-2026/sample_submission.csv", [[r[0], 0, 0, 0] for r in rows]), ("expected.csv", rows)):
    with open(name, "w", newline="") as stream:
        csv.writer(stream).writerows([["id", "disc", "ring", "star"], *shown])
"""
"""What the author of the notebook did: weights, test pictures, and predictions averaged over a flip."""

START = """%load_ext autoreload
%autoreload 2
!pip install -q ttach
files = !ls ../input/shapes-2026
print(f'{{}} {len(files)} files')"""
DATA = """import json, os
import pandas as pd, timm, torch, ttach
import numpy as np
from PIL import Image

DATA = '/kaggle/input/shapes-2026'
NAMES = json.load(open('/kaggle/input/shape-names/names.json'))
for folder, _, names in os.walk(DATA):
    print(f"{folder:>{40}}: {len(names)} {{files}}")"""
DEVICE = """if torch.cuda.is_available():
    !pip install -q einops \\
        --no-deps
else:
    device = 'cpu'"""
MODEL = """%%time
model = timm.create_model(
    'test_resnet', pretrained=False, num_classes=len(NAMES)
)  # the weights are our own
state = torch.load('/kaggle/input/shape-weights/net.pth', map_location=device)
model.load_state_dict(state)
model = ttach.ClassificationTTAWrapper(model.eval(), ttach.Compose([ttach.HorizontalFlip()]))"""
PREDICT = """rows = []
for name in pd.read_csv(f'{DATA}/sample_submission.csv')['id']:
    pixels = np.array(Image.open(f'{DATA}/test/{name}.png'))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        rows.append([name, *model(x)[0].tolist()])
pd.DataFrame(rows, columns=['id', *NAMES]).to_csv('submission.csv', index=False)
!head -2 submission.csv"""
CELLS = (START, DATA, DEVICE, MODEL, PREDICT)
METADATA = {
    "id": "me/shapes",
    "code_file": "inference.ipynb",
    "enable_internet": "true",
    "dataset_sources": ["me/shape-names"],
    "competition_sources": ["shapes-2026"],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the author has: the notebook, its metadata, weights, data, and what it predicted online."""
    folder = tmp_path_factory.mktemp("shapes")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]  # type: ignore[no-untyped-call]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "inference.ipynb")  # type: ignore[no-untyped-call]
    (folder / "kernel-metadata.json").write_text(json.dumps(METADATA))
    shop = environments.EnvironmentOptions(
        index=pip_settings.read_pip_settings(os.environ), cache=files.cache_dir(), yes=True
    )
    chosen = images.load_image(IMAGE, accelerator="none", project=folder)
    python = environments.make_kernel_environment(
        chosen, ["numpy", "pandas", "pillow", "timm", "torch"], shop
    )
    subprocess.run([python.path, "-c", AUTHOR], cwd=folder, check=True)
    return folder


def table(path: Path) -> dict[str, list[float]]:
    """Return the predictions of a submission by id."""
    with path.open(newline="") as stream:
        return {row.pop("id"): [float(value) for value in row.values()] for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def adopted(project: Path) -> Path:
    """Adopt the notebook, as a person would."""
    said = run("adopt", "inference.ipynb", "--write", "--json", cwd=project).good().facts
    assert said["asked"] == 0, said["found"]
    assert said["requirements"] == ["ttach", "einops"]
    return project


@pytest.mark.parametrize("layout", ["new", "old"])
def test_it_predicts_the_same_offline(adopted: Path, layout: str) -> None:
    """Magics, braces, a missing package, own weights: in the image's versions, with the network gone, the same numbers."""
    done = run("rehearse", adopted, "--layout", layout, "--yes", "--json").good()
    assert done.facts["rehearsal"]["fidelity"] == "matching"
    ours = table(adopted / "dist" / "offline-kit" / "rehearsal" / "submission.csv")
    expected = table(adopted / "expected.csv")
    assert ours.keys() == expected.keys()
    for name, values in expected.items():
        assert ours[name] == pytest.approx(values, abs=1e-5)
