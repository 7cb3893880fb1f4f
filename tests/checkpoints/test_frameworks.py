"""Members of an ensemble: which files are a model, whose it is, told from bytes, and what is asked where that fails."""

import ast
import gzip
import pickle
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from offline_kit.checkpoints import members
from offline_kit.checkpoints.discovery import collect_checkpoints
from offline_kit.checkpoints.file_kinds import ClassifiedFile, classify_file
from offline_kit.checkpoints.frameworks import framework_table, sklearn
from offline_kit.checkpoints.frameworks.framework_table import FRAMEWORKS
from offline_kit.core.errors import ProjectError
from offline_kit.core.resources import runtime_files
from offline_kit.kit.layout import name_checkpoints, name_preprocessing_files
from offline_kit.notebook import predict_settings
from offline_kit.project import config, images
from offline_kit.project.types import (
    Checkpoint,
    CheckpointKind,
    Fate,
    Freeze,
    Member,
    ModelSpec,
    NotebookSettings,
    OwnCode,
    Pin,
    Severity,
)
from offline_kit.workflow.model_files import check_trained_versions as versions_of
from offline_kit.workflow.model_files import inspect_model_files
from offline_kit.workflow.resolved_project import resolve_project
from tests.support.lazy_modules import joblib
from tests.support.lazy_modules import linear_model as linear


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project with four small models of scikit-learn."""
    model = linear.LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])
    for name in ("fold0/best.joblib", "fold1/best.joblib", "last.pkl"):
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        joblib.dump(model, path) if path.suffix == ".joblib" else path.write_bytes(pickle.dumps(model))
    return tmp_path


def found(project: Path, *patterns: str) -> tuple[Checkpoint, ...]:
    return collect_checkpoints(project, patterns, cache=project / "cache")


def resolved(project: Path, *models: ModelSpec, pattern: str = "models") -> tuple[Member, ...]:
    return members.resolve_members(
        NotebookSettings(template="predict", models=models), found(project, pattern)
    )


def details(error: ProjectError) -> str:
    return "\n".join([str(error.what), *error.details])


def test_each_checkpoint_is_a_member(project: Path) -> None:
    """Without an array of models every file is one, under the shortest names that tell them apart."""
    one, two, three = resolved(project)
    assert [each.name for each in (one, two, three)] == [
        "fold0/best.joblib",
        "fold1/best.joblib",
        "models/last.pkl",
    ]
    assert one.kit_path == "checkpoints/models/fold0/best.joblib"
    assert {each.framework for each in (one, two, three)} == {"sklearn"}
    assert one.files[0].original == "models/fold0/best.joblib"


def test_entries_choose_and_weigh(project: Path) -> None:
    """An entry names a file, a folder or a glob; what none names is no member."""
    globbed = resolved(project, ModelSpec(files="models/fold*/*.joblib", weight=2.0, params={"a": 1}))
    assert [(each.weight, each.params) for each in globbed] == [(2.0, {"a": 1})] * 2
    for pattern in (
        "models/fold0",
        "models/fold0/",
        "models/fold0/best.joblib",
        "**/fold0/*",
        "./models/fold0",
    ):
        assert [
            each.original for (one,) in [resolved(project, ModelSpec(files=pattern))] for each in one.files
        ] == ["models/fold0/best.joblib"], pattern


def test_every_problem_of_the_models_is_told_at_once(project: Path) -> None:
    """A pattern that fits nothing, an unknown framework, a file of nobody's: each with what to do."""
    (project / "models" / "notes.bin").write_bytes(b"nothing known")
    with pytest.raises(ProjectError) as caught:
        resolved(
            project,
            ModelSpec(files="models/lost.pkl"),
            ModelSpec(files="models/last.pkl", framework="sklaern"),
            ModelSpec(files="models/notes.bin"),
            ModelSpec(files="x.pt", origin="dataset:me/other"),
        )
    said = details(caught.value)
    assert "did you mean 'models/last.pkl'?" in said
    assert "there is no framework 'sklaern'; did you mean 'sklearn'?" in said
    assert "'models/notes.bin': no known framework made it; set `framework`" in said
    assert "'x.pt' of 'dataset:me/other': its framework is unknown; name a local copy" in said


def test_a_framework_that_needs_a_class_asks_for_it(project: Path) -> None:
    """Where the file holds weights alone, the key to set is named."""
    asking = [each for each in FRAMEWORKS if "model" in each.required_keys]
    for framework in asking:
        with pytest.raises(ProjectError) as caught:
            resolved(project, ModelSpec(files="models/last.pkl", framework=framework.name))
        assert f"{framework.title} needs `model` for it" in details(caught.value)


def test_models_of_other_sources_are_looked_at_in_their_copies(project: Path) -> None:
    """The files of a source have their paths in it, and are known by size and digest; without a copy, by trust."""
    copy = project / "copy"
    (copy / "folds").mkdir(parents=True)
    (copy / "folds" / "a.pkl").write_bytes((project / "models" / "last.pkl").read_bytes())
    spec = ModelSpec(files="folds/*.pkl", origin="dataset:me/other")
    said = NotebookSettings(template="predict", models=(spec,))
    (member,) = members.resolve_members(said, (), {"dataset:me/other": found(copy, "folds/*.pkl")})
    assert (member.kit_path, member.framework, member.origin) == (
        "folds/a.pkl",
        "sklearn",
        "dataset:me/other",
    )
    assert member.files[0].size > 0
    trusted = ModelSpec(files="folds/*.pkl", origin="dataset:me/other", framework="sklearn")
    (member,) = members.resolve_members(NotebookSettings(models=(trusted,)), ())
    assert (member.kit_path, member.files) == ("folds/*.pkl", ())


@pytest.mark.parametrize("framework", [each.name for each in FRAMEWORKS])
def test_a_model_without_a_local_copy_is_not_looked_into(framework: str) -> None:
    """Nobody can see what lies on Kaggle alone: no framework stumbles over the file that is not here."""
    spec = ModelSpec(files="m.x", origin="dataset:me/other", framework=framework, model="src/net.py:Net")
    said = NotebookSettings(template="predict", task="tabular", models=(spec,))
    trusted = members.resolve_members(said, ())
    assert members.check_members(trusted) == ()
    assert {each.about for each in members.check_column_order(said, trusted)} <= {"m.x"}


def test_the_template_follows_where_all_is_told(project: Path) -> None:
    """Tabular models of known kinds are predicted with; a word of the user's, or an unknown file, leaves it."""
    plain = NotebookSettings(template="plain", automatic=True)
    weights = found(project, "models")
    assert members.choose_template(plain, weights).template == "predict"
    assert members.choose_template(NotebookSettings(template="plain"), weights).template == "plain"
    assert members.choose_template(plain, ()).template == "plain"
    assert members.check_undecided(plain, weights) == ()
    (project / "models" / "notes.bin").write_bytes(b"nothing known")
    assert members.choose_template(plain, found(project, "models")).template == "plain"
    (told,) = members.check_undecided(plain, found(project, "models"))
    assert (told.about, told.severity) == ("models/notes.bin", Severity.WARN)
    assert members.check_undecided(NotebookSettings(template="plain"), found(project, "models")) == ()


def test_what_prepares_data_is_no_member(project: Path) -> None:
    """A scaler or a map of labels that a glob takes in is set aside; a pipeline with a scaler is a model."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    for name, thing in {
        "scaler.joblib": StandardScaler().fit([[0.0], [1.0]]),
        "encoder.pkl": OrdinalEncoder().fit([["a"]]),
        "pipe.joblib": make_pipeline(StandardScaler(), linear.LinearRegression()).fit([[0.0]], [0.0]),
    }.items():
        joblib.dump(thing, project / "models" / name)
    (project / "models" / "labels.json").write_text("{}")
    weights = found(project, "models")
    said = NotebookSettings(template="plain", automatic=True)
    assert set(members.find_non_models(said, weights)) == {
        "models/scaler.joblib",
        "models/encoder.pkl",
        "models/labels.json",
    }
    assert members.choose_template(said, weights).template == "predict"


def test_what_travels_beside_is_told_by_the_name_that_finds_it(project: Path) -> None:
    """Scalers of one bare name in two folders are asked for by their paths, and so the build says."""
    from sklearn.preprocessing import StandardScaler

    for fold in ("fold0", "fold1"):
        joblib.dump(StandardScaler().fit([[0.0]]), project / "models" / fold / "scaler.joblib")
    (project / "models" / "labels.json").write_text("{}")
    settings = config.load_config(project, {"checkpoints": ["models"]})
    chosen = images.load_image(settings.image, accelerator=settings.accelerator, project=project)
    told = " ".join(
        each.what for each in inspect_model_files(settings, chosen, cache=project / "cache").findings
    )
    for name in ("models/fold0/scaler.joblib", "models/fold1/scaler.joblib", "labels.json"):
        assert f'travels as preprocessing["{name}"]' in told


def test_what_the_models_need_is_asked_for_by_them(project: Path) -> None:
    """No pyproject.toml is named where there is none."""
    settings = config.load_config(project, {"checkpoints": ["models/fold0"]})
    request = resolve_project(settings).freeze_request(OwnCode())
    assert request.inline
    assert request.origins == dict.fromkeys(request.inline, "the trained files")


@pytest.fixture
def scaled(project: Path) -> Path:
    """Add a scaler, the encoder of a target and a map of labels to the project."""
    from sklearn.preprocessing import LabelEncoder, StandardScaler

    joblib.dump(StandardScaler().fit([[0.0], [1.0]]), project / "scaler.joblib", compress=3)
    joblib.dump(LabelEncoder().fit(["a", "b"]), project / "classes.pkl")
    (project / "labels.json").write_text("[]")
    return project


def unused(project: Path, pattern: str = "models", **settings: Any) -> dict[str, str]:
    """Return what nothing applies among the files beside the models, with the remedy."""
    said = NotebookSettings(**{"template": "predict", **settings})
    beside = found(project, "scaler.joblib", "classes.pkl", "labels.json")
    warned = predict_settings.warn_of_unused(
        said, members.resolve_members(said, found(project, pattern)), beside
    )
    assert all(each.severity is Severity.WARN for each in warned)
    return {each.about: each.remedy for each in warned}


def test_a_scaler_that_nothing_applies_is_warned_of(scaled: Path) -> None:
    """It would travel, and the predictions be wrong without a word; the key to set is named with what it gets."""
    assert unused(scaled) == {
        "classes.pkl": 'set postprocess = "file.py:function"; it gets the predictions, the ids and `preprocessing`',
        "scaler.joblib": 'set transform = "file.py:function"; it gets the table and `preprocessing`',
    }
    assert "gets the texts and" in unused(scaled, task="text")["scaler.joblib"]


@pytest.mark.parametrize(
    "settings",
    [
        {"transform": "a.py:f"},
        {"tta": "a.py:f"},
        {"postprocess": "a.py:f"},
        {"template": "function", "function": "a.py:f"},
        {"params": {"labels": "classes.pkl", "scaler": "scaler.joblib"}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_scaler_that_something_may_apply_is_not(scaled: Path, settings: dict[str, Any]) -> None:
    """A function of the user's, or a param that names the file, may use it."""
    assert unused(scaled, **settings) == {}


def test_a_scaler_that_the_model_has_is_not_missed(scaled: Path) -> None:
    """A pipeline scales by itself; the copy beside it is for others. A word of `postprocess` applies nothing."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), linear.LinearRegression()).fit([[0.0]], [0.0])
    joblib.dump(pipeline, scaled / "pipe.joblib")
    assert set(unused(scaled, "pipe.joblib", postprocess="clip:0:1")) == {"classes.pkl"}


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3)])
def test_scikit_learns_files_tell_their_version(tmp_path: Path, compress: Any) -> None:
    """A pipeline is recognised, and says with which version it was made, however joblib packed it."""
    import sklearn as library
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), linear.LinearRegression()).fit([[0.0], [1.0]], [0.0, 1.0])
    joblib.dump(pipeline, tmp_path / "model.joblib", compress=compress)
    (member,) = resolved(tmp_path, pattern="model.joblib")
    assert (member.framework, member.version, member.version_said) == ("sklearn", library.__version__, True)


@given(st.binary(max_size=200), st.sampled_from([".pkl", ".joblib", ".bin", ".json", ".onnx", ".txt"]))
def test_claims_never_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    """Whatever the bytes are, frameworks answer between 0 and 1."""
    path = tmp_path_factory.getbasetemp() / f"claimed{suffix}"
    path.write_bytes(data)
    try:
        seen = classify_file(path)
    except OSError:
        seen = ClassifiedFile(kind=CheckpointKind.OTHER)
    for framework in FRAMEWORKS:
        assert 0 <= framework.score_match(path, seen) <= 1, framework.name


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    """A poisoned pickle is looked at, by all frameworks, and nothing of it runs."""

    class Poison:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for name, data in {
        "a.pkl": pickle.dumps(Poison()),
        "b.joblib": zlib.compress(pickle.dumps(Poison())),
        "c.pkl": gzip.compress(pickle.dumps(Poison())),
    }.items():
        (tmp_path / name).write_bytes(data)
        framework_table.match_framework(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_versions_are_compared(project: Path) -> None:
    """Another minor version of scikit-learn is a warning with the remedy; files of one version share it."""
    together = resolved(project)
    said = together[0].version
    assert framework_table.compare_versions(together, {"scikit-learn": said}) == ()
    (finding,) = framework_table.compare_versions(together, {"scikit-learn": "0.24.1"})
    assert finding.severity is Severity.WARN
    assert "and 2 more were" in finding.what
    assert "scikit-learn==0.24.1" in finding.remedy
    (finding,) = framework_table.compare_versions(together, {"scikit-learn": "0.24.1"}, "some-image")
    assert "'offline-kit image show some-image --constraints'" in finding.remedy
    assert framework_table.compare_versions(together, {}) == ()


def test_versions_of_files_that_are_no_models_are_compared(project: Path) -> None:
    """A scaler beside the models, and pickles that a function of the user's loads, state their version too."""
    from sklearn.preprocessing import StandardScaler

    joblib.dump(StandardScaler().fit([[0.0], [1.0]]), project / "scaler.joblib", compress=3)
    (project / "own.py").write_text("def predict(context): ...\n")
    pin = Pin(name="scikit-learn", version="0.24.1", fate=Fate.PROVIDED)
    frozen = Freeze(image="some-image", python="3.12", engine="uv", cutoff="", input_hash="", pins=(pin,))

    def named(checkpoints: str, **settings: str) -> list[str]:
        keys = {"checkpoints": [checkpoints], "preprocessing": ["scaler.joblib"], "notebook": settings}
        said = config.load_config(project, keys)
        chosen = images.load_image(said.image, accelerator=said.accelerator, project=project)
        seen = inspect_model_files(said, chosen, cache=project / "cache")
        return [f"{each.about} {each.what}" for each in versions_of(seen, frozen)]

    by_function = {"template": "function", "function": "own.py:predict"}
    (line,) = named("own.py", **by_function)
    assert line.startswith("scaler.joblib was")
    (line,) = named("models/last.pkl", **by_function)
    assert line.startswith("models/last.pkl and 1 more were")
    (line,) = named("models/last.pkl", task="tabular")
    assert line.startswith("last.pkl and 1 more were")


@pytest.mark.parametrize(
    ("trained", "reads", "ours", "usual"),
    [
        ("1.6.1", "1.6.9", None, None),
        ("1.6.1", "1.7.0", Severity.WARN, None),
        ("1.7.0", "1.6.1", Severity.WARN, Severity.WARN),
        ("2.0.0rc1", "1.6.1", Severity.WARN, Severity.WARN),
    ],
)
def test_what_another_version_means(trained: str, reads: str, ours: Any, usual: Any) -> None:
    """scikit-learn's pickles fit their own minor version; the usual file is read by any later one."""
    assert sklearn.SKLEARN.judge_version(Version(trained), Version(reads)) is ours
    assert framework_table.BY_NAME["lightning"].judge_version(Version(trained), Version(reads)) is usual


def test_framework_names_are_identifiers_and_unique() -> None:
    """They are parts of function names in the notebook."""
    names = [each.name for each in FRAMEWORKS]
    assert all(name.isidentifier() for name in names)
    assert len(set(names)) == len(names)


def test_modules_of_the_runtime_do_not_take_each_others_names() -> None:
    """A notebook imports each name that its cells use from the one module that defines it."""
    names: Counter[str] = Counter()
    for source in runtime_files().values():
        for node in ast.parse(source).body:
            targets = [getattr(node, "name", None)] if hasattr(node, "name") else []
            targets += [t.id for t in getattr(node, "targets", ()) if isinstance(t, ast.Name)]
            targets += (
                [node.target.id]
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
                else []
            )
            names.update(set(filter(None, targets)))
    # Private names are imported by nobody.
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []


def test_names_in_the_kit(project: Path) -> None:
    """Checkpoints keep their paths; preprocessing files are asked for by their bare names, where these differ."""
    (project / "a").mkdir()
    for name in ("a/map.json", "map.json", "scaler.joblib"):
        (project / name).write_text("{}")
    files = found(project, "a/map.json", "map.json", "scaler.joblib")
    assert name_preprocessing_files(files) == {
        "a/map.json": "checkpoints/preprocessing/a/map.json",
        "map.json": "checkpoints/preprocessing/map.json",
        "scaler.joblib": "checkpoints/preprocessing/scaler.joblib",
    }
    assert list(name_checkpoints(found(project, "models")).values())[2] == "checkpoints/models/last.pkl"
