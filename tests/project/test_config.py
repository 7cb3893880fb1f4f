"""Configuration: flags over file over what is found; every problem at once."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline_kit.core.errors import UsageError
from offline_kit.project.config import Config, load_config
from offline_kit.project.config_keys import KEYS, find_key_problems
from offline_kit.project.kaggle_names import check_slug
from offline_kit.project.types import ModelSpec

TABLE = """
[project]
name = "plants"
version = "1.2"
dependencies = ["timm"]

[tool.offline-kit]
competition = "plant-pathology"
checkpoints = ["ckpt/*.ckpt"]
competition_data = "input"

[tool.offline-kit.notebook]
template = "lightning"
model = "plants.model:Lit"
params = {batch_size = 8}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(TABLE)
    (tmp_path / "input").mkdir()
    return tmp_path


def test_the_table_is_read_with_paths_relative_to_it(project: Path) -> None:
    """A path in pyproject.toml is relative to that file, not to where one stands."""
    config = load_config(project, {})
    assert config.competition_data == project / "input"
    assert (config.name, config.version, config.dataset) == ("plants", "1.2", "plants-kit")
    assert config.notebook.model == "plants.model:Lit"
    assert config.notebook.params == {"batch_size": 8}


def test_project_dependencies_and_package_are_the_defaults(project: Path) -> None:
    """A project with [project] is a package whose dependencies are the requirements."""
    config = load_config(project, {})
    assert (config.project_dependencies, config.requirements, config.packages) == (True, (), (project,))


def test_flags_win_over_the_file(project: Path) -> None:
    """What is said on the command line replaces what the file says, field by field."""
    config = load_config(
        project, {"competition": "other", "notebook": {"model": "a.py:M"}, "dataset": None, "checkpoints": ()}
    )
    assert config.competition == "other"
    assert config.checkpoints == ("ckpt/*.ckpt",)
    assert (config.notebook.model, config.notebook.template) == ("a.py:M", "lightning")


@pytest.mark.parametrize(
    ("said", "is_script"),
    [
        ({}, False),
        ({"kernel_type": "script"}, True),
        ({"source": "train.py"}, True),
        ({"source": "train.ipynb"}, False),
        ({"source": "train.py", "kernel_type": "script"}, True),
    ],
)
def test_the_kind_of_kernel_follows_from_an_adopted_file(
    tmp_path: Path, said: dict[str, str], is_script: bool
) -> None:
    """Nobody is asked what a suffix says."""
    assert load_config(tmp_path, {"notebook": said}).notebook.is_script is is_script


@pytest.mark.parametrize(("source", "kernel_type"), [("a.ipynb", "script"), ("a.py", "notebook")])
def test_a_kind_of_kernel_against_the_suffix_is_refused(
    tmp_path: Path, source: str, kernel_type: str
) -> None:
    """An adopted file stays what it is."""
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path, {"notebook": {"source": source, "kernel_type": kernel_type}})
    assert caught.value.code == "kernel-type-conflict"


def test_flags_alone_are_enough(tmp_path: Path) -> None:
    """A folder with nothing but requirements.txt and a checkpoint needs no configuration file."""
    (tmp_path / "requirements.txt").write_text("timm\n")
    config = load_config(tmp_path, {"checkpoints": ("a.ckpt",), "dataset": "my-kit"})
    assert config.requirements == (tmp_path / "requirements.txt",)
    assert (config.packages, config.source, config.dataset) == ((), None, "my-kit")


def test_an_image_that_nobody_knows_is_among_the_problems(tmp_path: Path) -> None:
    """Who mends the wrong keys does not hear of the image only then; alone, it is told with the choices."""
    text = 'image = "kaggle-2026-10-cpuu"\n'
    (tmp_path / "offline-kit.toml").write_text(text + "chekpoints = []\n")
    with pytest.raises(UsageError, match="2 problems") as caught:
        load_config(tmp_path, {})
    assert any("there is no image 'kaggle-2026-10-cpuu'" in line for line in caught.value.details)
    (tmp_path / "offline-kit.toml").write_text(text)
    assert load_config(tmp_path, {}).image == "kaggle-2026-10-cpuu"


def test_all_problems_are_named_at_once_with_guesses(project: Path) -> None:
    """One error lists unknown keys with a guess and wrong types, in both tables."""
    bad = TABLE.replace('checkpoints = ["ckpt/*.ckpt"]', 'chekpoints = ["x"]\nsdists = "maybe"\nrows = 0')
    (project / "pyproject.toml").write_text(bad.replace("template =", "templat ="))
    with pytest.raises(UsageError) as caught:
        load_config(project, {})
    text = "\n".join(caught.value.details)
    assert "unknown key 'chekpoints'; did you mean 'checkpoints'?" in text
    assert "sdists must be one of 'both', 'rename', 'wheel'" in text
    assert "rows must be a whole number above 0, not 0" in text
    assert "unknown key 'templat'; did you mean 'template'?" in text


def test_two_configurations_are_refused(project: Path) -> None:
    """offline-kit.toml beside [tool.offline-kit] leaves it open which one counts."""
    (project / "offline-kit.toml").write_text('dataset = "x-kit"\n')
    with pytest.raises(UsageError, match="has both"):
        load_config(project, {})


@pytest.mark.parametrize("head", ["", "[tool.offline-kit]\n"])
def test_own_file_works_with_and_without_the_table_name(tmp_path: Path, head: str) -> None:
    """offline-kit.toml holds the same keys, bare or under [tool.offline-kit]."""
    (tmp_path / "offline-kit.toml").write_text(f'{head}dataset = "x-kit"\n')
    assert load_config(tmp_path, {}).dataset == "x-kit"


def test_missing_paths_are_listed(project: Path) -> None:
    """Every path that does not exist is named, with the file to correct."""
    with pytest.raises(UsageError) as caught:
        load_config(project, {"requirements": (project / "a.in", project / "b.in")})
    assert [Path(line.split("'")[1]).name for line in caught.value.details] == ["a.in", "b.in"]


@pytest.mark.parametrize(
    "text", ["tool = 3", "[tool]\noffline-kit = 3", "project = 3", "dependency-groups = []"]
)
def test_a_table_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    """A value where a table belongs is a usage error, whoever wrote it."""
    (tmp_path / "pyproject.toml").write_text(text + "\n")
    with pytest.raises(UsageError, match="must be a table"):
        load_config(tmp_path, {})


def test_versions_are_not_names(project: Path) -> None:
    """exclude, include and the like take names; a requirement there would never match, silently."""
    (project / "pyproject.toml").write_text(
        TABLE.replace("competition_data", 'exclude = ["numpy>2"]\ncompetition_data')
    )
    with pytest.raises(UsageError) as caught:
        load_config(project, {})
    assert "[tool.offline-kit] exclude " in caught.value.details[0]


def test_a_lock_does_not_hide_what_the_project_asks_for(project: Path) -> None:
    """With `locks`, [project].dependencies are still the requirements."""
    (project / "uv.lock").touch()
    assert load_config(project, {"locks": (project / "uv.lock",)}).project_dependencies


@pytest.mark.parametrize(("packages", "read"), [('["."]', False), ("[]", True)])
def test_dynamic_dependencies_come_with_the_own_wheel(tmp_path: Path, packages: str, read: bool) -> None:
    """Only the backend knows them: they are read from the built wheel, and asked for where none is built."""
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\n[project]\nname = "plants"\ndynamic = ["dependencies"]\n'
        f"[tool.offline-kit]\npackages = {packages}\n"
    )
    assert load_config(tmp_path, {}).project_dependencies is read


def test_extras_need_a_project_that_defines_them(tmp_path: Path) -> None:
    """Extras of a folder without pyproject.toml are a usage error."""
    with pytest.raises(UsageError, match="no pyproject"):
        load_config(tmp_path, {"extras": ("gpu",)})


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    """A syntax error in the file is a usage error that says where."""
    (tmp_path / "pyproject.toml").write_text("a = [\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_config(tmp_path, {})


def test_no_such_project(tmp_path: Path) -> None:
    """A folder that is not there is the first thing said."""
    with pytest.raises(UsageError, match="there is no folder"):
        load_config(tmp_path / "nowhere", {})


values = st.one_of(
    st.booleans(), st.integers(), st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.integers())
)


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(KEYS)), st.text()), values))
def test_any_table_is_judged_key_by_key(table: dict[str, object]) -> None:
    """No value of any key ends in a traceback, and each unknown key is named once."""
    lines = list(find_key_problems(table, KEYS, "[x]"))
    assert sum("unknown key" in line for line in lines) == len(set(table) - set(KEYS))


def test_every_field_of_the_config_has_a_key() -> None:
    """A field nobody can set, or a key nobody reads, is a mistake."""
    from dataclasses import fields

    found = {"project", "name", "version", "project_dependencies", "source", "from_flags"}
    assert {item.name for item in fields(Config)} - found == set(KEYS)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("my_Leaves", "my-leaves-kit"),
        ("a", "a-offline-kit"),
        ("木", "offline-kit"),
        ("x" * 80, "x" * 34 + "-kit"),
    ],
)
def test_the_default_dataset_is_a_slug_that_kaggle_takes(tmp_path: Path, name: str, slug: str) -> None:
    """Whatever the project's folder is called, and with a part's name behind it."""
    (tmp_path / name).mkdir()
    dataset = load_config(tmp_path / name, {}).dataset
    assert dataset == slug
    assert not check_slug(f"{dataset}-checkpoints")


def test_models_are_an_array_of_tables(tmp_path: Path) -> None:
    """Each entry is a frozen noun; `from` is its origin, and a weight may be a whole number."""
    (tmp_path / "offline-kit.toml").write_text(
        "[[notebook.models]]\nfiles = 'folds/*.pkl'\nweight = 2\n"
        "[[notebook.models]]\nfiles = 'a.onnx'\nframework = 'onnx'\nfrom = 'dataset:me/other'\nparams = {x = 1}\n"
    )
    settings = load_config(tmp_path, {}).notebook
    assert settings.models == (
        ModelSpec(files="folds/*.pkl", weight=2.0),
        ModelSpec(files="a.onnx", framework="onnx", origin="dataset:me/other", params={"x": 1}),
    )
    assert (settings.template, settings.automatic) == ("predict", True)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("weight = 1", "files is missing"),
        ("files = 'a'\nfile = 'b'", "unknown key 'file'; did you mean 'files'?"),
        ("files = 'a'\nweight = 0", "weight must be a number above 0"),
        ("files = 'a'\nfrom = 'kaggle:x'", "'dataset:owner/slug'"),
        ("files = 'a'\nfrom = 'model:me/net/pytorch/base'", "version"),
    ],
)
def test_wrong_models_are_told(tmp_path: Path, entry: str, words: str) -> None:
    """What is wrong in an entry is named, with a guess or the right form."""
    (tmp_path / "offline-kit.toml").write_text(f"[[notebook.models]]\n{entry}\n")
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path, {})
    assert words in "\n".join(caught.value.details)


@pytest.mark.parametrize(
    ("table", "template"),
    [
        ("task = 'images'", "predict"),
        ("function = 'a.py:f'\ntask = 'images'", "function"),
        ("model = 'a:B'\ndata = 'a:C'", "lightning"),
        ("template = 'plain'\ntask = 'text'", "plain"),
        ("title = 'A title'", "plain"),
    ],
)
def test_the_template_follows_from_what_is_said(tmp_path: Path, table: str, template: str) -> None:
    """A function wins, then models and tasks, then a LightningModule; a word of the user's over all."""
    (tmp_path / "offline-kit.toml").write_text(f"[notebook]\n{table}\n")
    assert load_config(tmp_path, {}).notebook.template == template


@pytest.mark.parametrize("value", ["kaggle_evaluation.rain:RainHost", {"rows": 3}])
def test_a_gateway_is_a_class_or_options(value: object) -> None:
    """The params of a server name the gateway's class, or say how the stand-in for it behaves."""
    from offline_kit.project.config_keys import PARAMS

    assert PARAMS["gateway"].check(value) == ""
    assert PARAMS["gateway"].check(3)
