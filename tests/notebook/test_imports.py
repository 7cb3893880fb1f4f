"""Which image packages the user's own code imports."""

import json
import zipfile
from pathlib import Path

import pytest

from offline_kit.notebook import imports
from offline_kit.project.images import Image
from offline_kit.project.types import FileEntry, Role
from offline_kit.rehearsal import kernel
from tests.support.adopting import notebook_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import a.b, c as d", {"a", "c"}),
        ("from x.y import z\nfrom . import own\nfrom .own import more", {"x"}),
        ("try:\n    import fast\nexcept ImportError:\n    import slow", {"fast", "slow"}),
        ("def f():\n    import late", {"late"}),
        ("this is no python", set()),
    ],
)
def test_names_are_found_wherever_they_stand(text: str, names: set[str]) -> None:
    """Top-level names of absolute imports, also in functions and guards; nothing of what does not parse."""
    assert imports.find_imports(text) == names


def test_wheels_files_and_notebooks_are_read(tmp_path: Path) -> None:
    """All three forms in which the user's code travels; magic lines of a notebook do not hide the rest."""
    (tmp_path / "a.py").write_text("import one")
    with zipfile.ZipFile(tmp_path / "x-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("x/__init__.py", "import two")
        wheel.writestr("x/data.txt", "import not_this")
    cell = {"cell_type": "code", "source": ["!ls\n", "%time 1\n", "import three"]}
    (tmp_path / "n.ipynb").write_text(
        json.dumps({"cells": [cell, {"cell_type": "markdown", "source": "import no"}]})
    )
    assert imports.find_file_imports(sorted(tmp_path.iterdir())) == {"one", "two", "three"}


def test_distributions_are_those_that_the_image_has() -> None:
    """Odd import names go by the table, the others by their own; the library and unknown names give nothing."""
    image = {"scikit-learn", "pillow", "opencv-python", "pytorch-lightning", "numpy"}
    names = ["sklearn", "PIL", "cv2", "pytorch_lightning", "os", "unknown", "yaml"]
    assert imports.match_distributions(names, image) == (
        "opencv-python",
        "pillow",
        "pytorch-lightning",
        "scikit-learn",
    )


def test_what_an_inference_server_speaks_through_is_found() -> None:
    """The competitions' own package imports grpc and google.protobuf."""
    names = imports.find_imports("import grpc\nfrom google.protobuf import descriptor\n")
    assert imports.match_distributions(names, {"grpcio", "protobuf", "numpy"}) == ("grpcio", "protobuf")


def test_weights_ask_for_the_package_that_reads_them() -> None:
    """A kit with safetensors is rehearsed with the image's safetensors, whatever the code imports."""
    image = Image(name="tests", title="", accelerator="none", python="3.13.5", packages={"safetensors": "1"})
    for suffix, used in (("ckpt", ()), ("safetensors", ("safetensors",))):
        stored = f"checkpoints/a.{suffix}"
        entry = FileEntry(role=Role.CHECKPOINT, original=stored, stored=stored, size=0, sha256="")
        assert kernel.find_used_packages([(entry, Path(stored))], [], image) == used


@pytest.mark.parametrize(
    "cell",
    [
        "%%writefile infer.py\nimport wanted\n!ls",
        "%%file tools/infer.py\nimport wanted",
        "%%writefile -a 'infer.py'\nimport wanted",
        "%%bash\ncat > infer.py <<'EOF'\nimport wanted\nEOF\npython infer.py",
        "%%bash\ncat <<END > infer.py\nimport wanted\nEND",
        "with open('infer.py', 'w') as file:\n    file.write('''import wanted\n''')",
        "open('infer.py', 'w').write('import wanted')",
        "from pathlib import Path\nPath('infer.py').write_text('import wanted')",
    ],
)
def test_scripts_that_a_cell_writes_are_read(tmp_path: Path, cell: str) -> None:
    """What a script imports counts, however a cell of the notebook writes it."""
    assert "wanted" in imports.find_file_imports([notebook_of(tmp_path, cell)])


@pytest.mark.parametrize(
    "cell",
    [
        "%%writefile notes.md\nimport unwanted",
        "%%writefile broken.py\nimport unwanted\ndef (",
        "open('notes.txt', 'w').write('import unwanted')",
    ],
)
def test_other_written_files_import_nothing(tmp_path: Path, cell: str) -> None:
    """Text that is no Python file, and a script that does not parse, add no imports and hide none."""
    assert imports.find_file_imports([notebook_of(tmp_path, cell, "import json")]) - {"pathlib"} == {"json"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import pandas as pd\npd.read_parquet('a')", {"pandas", "pyarrow"}),
        ("import polars as pl\npl.read_csv('a').to_pandas()", {"polars", "pyarrow"}),
        ("from pandas import read_hdf", {"pandas", "tables"}),
        ("import torchaudio\ntorchaudio.load('a.wav')", {"torchaudio", "torchcodec", "soundfile"}),
        ("import json\njson.load(open('a'))", {"json"}),
        ("import x\nx.make(device_map='auto')", {"x", "accelerate"}),
    ],
)
def test_engines_that_nobody_imports_by_name_are_found(text: str, names: set[str]) -> None:
    """A reader's engine is imported by the reader: the call says it."""
    assert imports.find_imports(text) == names
