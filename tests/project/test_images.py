"""Images: the built-in ones, files that a user brings, and the running interpreter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.tags import parse_tag
from packaging.version import Version

from offline_kit.core.errors import UsageError
from offline_kit.project import images, package_lists


def load(name: str = "", accelerator: str = "none", project: Path = Path()) -> images.Image:
    return images.load_image(name, accelerator=accelerator, project=project)


@pytest.mark.parametrize("name", images.list_image_names())
def test_built_in_images_are_whole_and_honest(name: str) -> None:
    """Every built-in image has hundreds of packages, valid versions, and says that it is a reconstruction."""
    found = load(name)
    assert found.name == name
    assert len(found.packages) > 800
    for version in found.packages.values():
        Version(version)
    assert "econstruction" in found.title
    assert "econstruction" in found.provenance
    assert found.confidence
    assert found.glibc == (2, 35)
    assert {"torch", "numpy", "protobuf", "jupyter-client", "pyzmq"} <= found.protected


def test_the_four_images_are_there() -> None:
    """October 2026 and v170, each for CPU and GPU; v170 carries its digest."""
    assert images.list_image_names() == (
        "kaggle-2026-10-cpu",
        "kaggle-2026-10-gpu",
        "kaggle-v170-cpu",
        "kaggle-v170-gpu",
    )
    assert [one.name for one in images.load_built_in_images()] == list(images.list_image_names())
    assert load("kaggle-2026-10-cpu").packages["torch"] == "2.11.0+cpu"
    assert load("kaggle-2026-10-gpu").packages["torch"] == "2.11.0+cu128"
    assert load("kaggle-v170-cpu").python_minor == "3.12"
    assert "@sha256:c1fa4de3" in load("kaggle-v170-cpu").digest
    assert "@sha256:bdf9e053" in load("kaggle-v170-gpu").digest


@pytest.mark.parametrize(
    ("accelerator", "name"),
    [
        ("none", "kaggle-2026-10-cpu"),
        ("", "kaggle-2026-10-cpu"),
        ("NvidiaTeslaT4", "kaggle-2026-10-gpu"),
        ("t4x2", "kaggle-2026-10-gpu"),
    ],
)
def test_the_image_follows_the_accelerator(accelerator: str, name: str) -> None:
    """Unless named, the image is today's for the machine that is asked for."""
    assert load(accelerator=accelerator).name == name
    assert load("kaggle-v170-cpu", accelerator=accelerator).name == "kaggle-v170-cpu"


def test_tags_are_the_images_own() -> None:
    """Wheels are chosen for CPython 3.13 and glibc up to 2.35, whatever runs here; exact tags come first."""
    tags = load().wheel_tags
    for fits in ("cp313-cp313-manylinux_2_28_x86_64", "cp38-abi3-manylinux2014_x86_64", "py3-none-any"):
        assert parse_tag(fits) <= set(tags)
    for misfit in (
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp313-cp313-manylinux_2_36_x86_64",
        "cp313-cp313t-manylinux_2_28_x86_64",
        "cp313-cp313-musllinux_1_2_x86_64",
        "cp313-cp313-win_amd64",
    ):
        assert not parse_tag(misfit) & set(tags)
    assert str(tags[0]) == "cp313-cp313-manylinux_2_35_x86_64"
    assert [str(tag) for tag in tags].index("cp313-abi3-manylinux2014_x86_64") > 30


def test_markers_are_the_images_own() -> None:
    """Markers are evaluated for the image's full Python version on Linux."""
    from packaging.markers import Marker

    environment = load().marker_environment()
    assert Marker("python_full_version >= '3.13.5' and sys_platform == 'linux'").evaluate(environment)
    assert not Marker("python_version < '3.13' or platform_machine == 'aarch64'").evaluate(environment)
    assert load().platform_for_uv == "x86_64-manylinux_2_35"


@pytest.mark.parametrize(
    "name", ["numpy", "Ruamel.yaml", "zope__interface", "a-_.b", "PyYAML", "Flask-SQLAlchemy"]
)
def test_names_are_compared_as_indexes_do(name: str) -> None:
    """Our way to compare names, which needs no import, gives what packaging's gives."""
    from packaging.utils import canonicalize_name

    assert package_lists.normalize_name(name) == canonicalize_name(name)


def test_the_public_version_has_no_build() -> None:
    """torch 2.11.0 is what the image calls 2.11.0+cpu."""
    here = load()
    assert here.public_version("torch") == "2.11.0"
    assert here.public_version("onnxruntime") == ""


def test_accelerator_packages_and_protection_are_data() -> None:
    """CUDA's packages are told by name; on the GPU image those that it has are protected too."""
    gpu = load("kaggle-2026-10-gpu")
    for name in ("nvidia-nccl-cu12", "triton", "cuda-bindings", "cupy-cuda12x", "rmm-cu12"):
        assert gpu.is_accelerator(name)
    assert not gpu.is_accelerator("torch")
    assert gpu.is_protected("nvidia-cublas-cu12")
    assert gpu.is_protected("jupyter_client")
    assert not gpu.is_protected("pandas")


def test_an_unknown_name_gets_a_guess_and_the_list() -> None:
    """A misspelt image is answered with the nearest name and all of them."""
    with pytest.raises(UsageError) as caught:
        load("kaggle-v17O-cpu")
    assert "did you mean 'kaggle-v170-cpu'" in caught.value.what
    assert all(name in caught.value.hint for name in images.list_image_names())
    with pytest.raises(UsageError, match="did you mean 'timm'"):
        images.find_package(load(), "tim")


def test_a_package_is_found_by_any_spelling() -> None:
    """Its name comes back as the image's list has it."""
    assert images.find_package(load(), "Jupyter_Client") == "jupyter-client"
    assert load().packages["jupyter-client"] == "7.4.9"


def test_pip_list_json_is_an_image(tmp_path: Path) -> None:
    """`pip list --format=json` gives the packages; Python is assumed and the assumption said."""
    rows = [{"name": "Torch", "version": "2.12.0+cpu"}, {"name": "jupyter_client", "version": "8.0"}]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    found = load("mine.json", project=tmp_path)
    assert dict(found.packages) == {"torch": "2.12.0+cpu", "jupyter-client": "8.0"}
    assert found.python == load().python
    assert "assumed" in found.confidence
    assert found.is_protected("numpy")


def test_pip_inspect_tells_python_too(tmp_path: Path) -> None:
    """What `pip inspect` prints names the packages and the full Python version."""
    command = [sys.executable, "-m", "pip", "inspect", "--local"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "inspected.json").write_text(done.stdout)
    found = load("inspected.json", project=tmp_path)
    assert found.python == load("local").python
    assert found.packages["pytest"] == pytest.__version__
    assert "assumed" not in found.confidence


FREEZE = """\
# python: 3.12.11
numpy==2.0.2
torch @ https://download.pytorch.org/whl/cpu/torch-2.10.0%2Bcpu-cp312-cp312-manylinux_2_28_x86_64.whl#sha256=00
segment-anything @ git+https://github.com/facebookresearch/segment-anything.git@dca509f
-e git+https://example.org/thing.git@abc#egg=My_Thing
-e /home/me/other
# a comment
Flask_Login==0.6.3 ; python_version > "3"
odd===2004d
"""


def test_pip_freeze_is_an_image(tmp_path: Path) -> None:
    """URL lines give the version in their file name; editable and git lines are known without one."""
    (tmp_path / "freeze.txt").write_text(FREEZE)
    found = load("freeze.txt", project=tmp_path)
    assert dict(found.packages) == {
        "numpy": "2.0.2",
        "torch": "2.10.0+cpu",
        "flask-login": "0.6.3",
        "odd": "2004d",
    }
    assert found.unversioned == ("my-thing", "segment-anything")
    assert found.python == "3.12.11"
    assert found.wheel_tags[0].interpreter == "cp312"
    assert images.find_package(found, "segment_anything") == "segment-anything"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '[{"name": "x"}]', "not a list of packages"),
        ("b.txt", "Package Version\n------- -------\nnumpy   2.1\n", "line 1"),
        ("c.txt", "", "no package"),
        ("d.toml", 'python = "3.13"\nprotectd = []\npackages = "a==1"', "did you mean 'protected'"),
        ("e.toml", "python = ", "not valid TOML"),
        ("f.txt", "# python: three\na==1\n", "expected a full version"),
    ],
)
def test_files_that_are_no_image_say_why(tmp_path: Path, name: str, text: str, told: str) -> None:
    """A file of another kind ends in an error that names it and its trouble."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        load(name, project=tmp_path)
    words = "\n".join([caught.value.what, *caught.value.details])
    assert told in words
    assert name in words


def test_our_own_format_is_an_image(tmp_path: Path) -> None:
    """A user's TOML file may say all that the built-in ones say, and leave out most of it."""
    text = 'python = "3.14.1"\naccelerator = "NvidiaTeslaT4"\nprotected = ["a*"]\n[packages]\nAbc = "1.0"\nb = "2"\n'
    (tmp_path / "own.toml").write_text(text)
    found = load("own.toml", project=tmp_path)
    assert (found.name, found.python_minor, found.accelerator) == ("own", "3.14", "gpu")
    assert dict(found.packages) == {"abc": "1.0", "b": "2"}
    assert found.protected == {"abc"}
    assert found.is_accelerator("nvidia-nccl-cu13")


def test_local_is_the_running_interpreter() -> None:
    """`local` names the running Python, its tags, its markers and what is installed in it."""
    here = load("local")
    assert here.local
    assert here.interpreter == Path(sys.executable)
    assert here.packages["pytest"] == pytest.__version__
    assert here.python == ".".join(map(str, sys.version_info[:3]))
    assert here.marker_environment()["python_version"] == here.python_minor
    assert here.wheel_tags[0].interpreter == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert here.platform_for_uv == ""


def test_loading_is_light() -> None:
    """Reading an image imports nothing slow: `status` and `image list` wait for it."""
    code = (
        "import sys; from pathlib import Path; from offline_kit.project import images as image\n"
        "image.load_image('', accelerator='none', project=Path())\n"
        "assert not {'packaging', 'requests', 'importlib.metadata'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
