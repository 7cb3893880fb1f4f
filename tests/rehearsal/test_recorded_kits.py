"""What the replay of a recording needs of the image."""

from pathlib import Path

from offline_kit.project import images
from offline_kit.rehearsal import recorded_kits
from tests.support.local_index import make_wheel
from tests.support.recordings import RecordedPart


def test_pip_finds_what_recorded_wheels_require_and_lines_name(tmp_path: Path) -> None:
    """Packages of the image that no wheel of the recording brings have to be in the kernel."""
    image = images.load_image("", accelerator="none", project=tmp_path)
    requires = (
        "scipy>=1",
        "pandas; python_version < '3'",
        "timm; extra == 'vision'",
        "not-of-the-image",
        "lxml (>=1, (old)",
    )
    wheel = make_wheel(tmp_path, "plants", "1.0", requires=requires, extras={"text": ["transformers"]})
    part = RecordedPart(tmp_path / "recorder")
    part.add("packages", name="plants", version="1.0", wheel=wheel.name, **part.add_object(wheel))
    part.add("packages", name="private", version="1.0", wheel="", sha256="", size=0)
    part.add_file("{working}/tools/net.py", b"import torch", "beside")
    part.add_file("{scratch}/caches/keras/models.py", b"import keras")
    part.mount(tmp_path / "part")
    document = tmp_path / "part/recording/recording.json"
    notebook = tmp_path / "notebook.ipynb"
    notebook.write_text('["!pip install -q Scikit_Learn==1.0 plants\\n",\n "import numpy\\n"]')
    needs = recorded_kits.find_pip_needs(document, [notebook], image, tmp_path / "scratch")
    assert needs == {"scipy", "scikit-learn"}
    modules = recorded_kits.unpack_modules(document, tmp_path / "scratch")
    assert [path.read_text() for path in modules] == ["import torch"]
