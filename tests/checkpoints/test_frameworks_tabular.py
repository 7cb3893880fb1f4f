"""Boosters, ONNX, Keras and skops: told from their bytes, with findings and remedies; what loads them in the notebook.

The files are made by hand, byte by byte where their libraries would be gigabytes; test_matrix.py has real ones.
"""

import ast
import dataclasses
import json
import struct
import zlib
from pathlib import Path

import pytest

from offline_kit.checkpoints import members
from offline_kit.checkpoints.discovery import collect_checkpoints
from offline_kit.checkpoints.frameworks import framework_table
from offline_kit.checkpoints.frameworks.onnx import read_graph
from offline_kit.project.types import NotebookSettings, Severity
from tests.support.predicting import Stage
from tests.support.tabular_models import (
    HDF5,
    LIGHTGBM,
    WHOLE_H5,
    archive,
    findings,
    keras,
    member,
    onnx,
    part,
    seen,
    ubj,
)

LIGHTGBM_3 = LIGHTGBM.replace(b"v4", b"v3")
XGBOOST = b'{"learner":{"attributes":{},"feature_names":["a"],"feature_types":["%s"]},"version":[%s]}'


def old_xgboost() -> bytes:
    objective = b"binary:logistic"
    return (
        struct.pack("<fI", 0.5, 30) + bytes(128) + struct.pack("<Q", len(objective)) + objective + bytes(50)
    )


def pickled(*names: str) -> bytes:
    """Return a pickle of an instance of each of these classes."""
    made = (
        f"c{name.rpartition('.')[0]}\n{name.rpartition('.')[2]}\n)\x81".encode("latin1") for name in names
    )
    return b"\x80\x02(" + b"".join(made) + b"t."


def skops(*types: str, version: str = "1.6.1") -> bytes:
    state = {"_sklearn_version": {"__class__": "str", "__module__": "builtins", "content": f'"{version}"'}}
    held = [{"__module__": name.rpartition(".")[0], "__class__": name.rpartition(".")[2]} for name in types]
    schema = {"__class__": "Ridge", "__module__": "sklearn.linear_model._ridge", "content": state}
    return archive(schema__json=json.dumps(schema | {"held": held, "_skops_version": "0.16.0"}, indent=2))


FILES: dict[str, tuple[bytes, str, str]] = {
    "model.txt": (LIGHTGBM, "lightgbm", ""),
    "lgb.pkl": (
        pickled("lightgbm.sklearn.LGBMClassifier", "sklearn.preprocessing._label.LabelEncoder"),
        "lightgbm",
        "",
    ),
    "model.json": (XGBOOST % (b"float", b"3,4,1"), "xgboost", "3.4.1"),
    "model.ubj": (ubj(3, 4, 1), "xgboost", "3.4.1"),
    "model.bin": (old_xgboost(), "xgboost", ""),
    "binf.model": (b"binf" + old_xgboost(), "xgboost", ""),
    "xgb.pkl": (pickled("xgboost.core.Booster"), "xgboost", ""),
    "around.pkl": (pickled("sklearn.pipeline.Pipeline", "xgboost.sklearn.XGBClassifier"), "sklearn", ""),
    "model.cbm": (b"CBM1" + bytes(90) + b"Summary: CatBoost release 1.2.10. commit", "catboost", "1.2.10"),
    "cat.json": (
        (
            b'{\n"features_info": {},\n"model_info": {"catboost_version_info": "Branch: tags/v1.2.10\\n"},\n'
            b'"oblivious_trees": [],\n"scale_and_bias": [1, [0]]\n}'
        ),
        "catboost",
        "1.2.10",
    ),
    "cat.pkl": (pickled("catboost.core.CatBoostRegressor"), "catboost", ""),
    "model.onnx": (onnx(), "onnx", ""),
    "model.keras": (keras(), "keras", "3.13.2"),
    "model.h5": (WHOLE_H5, "keras", "3.13.2"),
    "model.skops": (skops(), "skops", "1.6.1"),
}
"""A file of each format: its bytes, its framework, and the version that it states."""
OTHERS = {
    "data.h5": HDF5 + b"table\0",
    "params.json": b'{"learner": "xgboost", "version": 3}',
    "notes.txt": b"tree\nof life\n",
    "archive.zip": archive(schema__json='{"type": "object"}'),
    "weights.npz": archive(a__npy="\x93NUMPY"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_tells_its_framework_and_version(name: str, tmp_path: Path) -> None:
    """The bytes say whose it is, under whatever name, and what wrote it where that is written in it."""
    content, framework, version = FILES[name]
    made = member(tmp_path, name, content)
    assert (made.framework, made.version) == (framework, version)


@pytest.mark.parametrize("name", OTHERS)
def test_alike_files_are_not_claimed(name: str, tmp_path: Path) -> None:
    """Data in HDF5, JSON of other kinds, texts and archives belong to none of them."""
    path = tmp_path / name
    path.write_bytes(OTHERS[name])
    assert framework_table.match_framework(path) is None


def test_each_framework_says_what_it_needs() -> None:
    """Names are identifiers, unique, and have a fragment; packages are named."""
    names = [each.name for each in framework_table.FRAMEWORKS]
    assert len(set(names)) == len(names)
    for each in framework_table.FRAMEWORKS:
        assert each.name.isidentifier()
        assert each.packages


STOPPED = {
    "a LightGBM text cut short": ("model.txt", LIGHTGBM[:60], "cut short"),
    "weights of Keras": ("net.weights.h5", HDF5, "weights alone"),
    "a lambda of Keras": ("l.keras", keras({"layers": [{"class_name": "__lambda__"}]}), "refuses to run"),
    "a lambda in Keras' HDF5": ("l.h5", WHOLE_H5 + b'{"class_name": "__lambda__"}', "refuses to run"),
    "an ONNX graph without its weights": (
        "model.onnx",
        onnx(beside="model.data"),
        "'model.data', which are missing",
    ),
}


@pytest.mark.parametrize("case", STOPPED)
def test_a_file_that_cannot_load_stops_the_build(case: str, tmp_path: Path) -> None:
    """What would fail after minutes in the notebook is said at the build, with what to save instead."""
    name, content, told = STOPPED[case]
    (found,) = findings(member(tmp_path, name, content))
    assert found.severity is Severity.STOP
    assert told in found.what
    assert found.remedy


WARNED = {
    "categories that XGBoost did not keep": ("m.json", XGBOOST % (b"c", b"2,1,4"), "names of its categories"),
    "XGBoost's old format": ("model.model", old_xgboost(), "3.1 and newer do not read"),
    "types that skops does not trust": ("m.skops", skops("mine.Scaler"), "mine.Scaler"),
    "trees that skops does not trust": (
        "m.skops",
        skops("sklearn.tree._tree.Tree"),
        "sklearn.tree._tree.Tree",
    ),
    "classes of the user's in Keras": (
        "m.keras",
        keras({"class_name": "Gate", "module": "layers", "registered_name": "Gate"}),
        "Gate",
    ),
    "classes of the training script in Keras": (
        "m.keras",
        keras({"class_name": "Gate", "module": None, "registered_name": "Gate"}),
        "Gate",
    ),
    "operators of strangers": ("m.onnx", onnx(domain=b"ai.onnx.contrib"), "ai.onnx.contrib"),
    "a fixed number of rows": ("m.onnx", onnx(rows=8), "exactly 8 rows"),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_may_fail_is_warned_of(case: str, tmp_path: Path) -> None:
    """Each with a remedy that names what to write."""
    name, content, told = WARNED[case]
    (found,) = findings(member(tmp_path, name, content))
    assert found.severity is Severity.WARN
    assert told in found.what
    assert found.remedy


def test_params_that_answer_a_finding_end_it(tmp_path: Path) -> None:
    """Trusted types, safe_mode and a function that builds the model are what the findings ask for."""
    lambdas = keras({"class_name": "__lambda__"})
    trusting = {"trusted": ["mine.Scaler"]}
    assert not findings(member(tmp_path, "m.skops", skops("mine.Scaler"), params=trusting))
    assert not findings(member(tmp_path, "m.keras", lambdas, params={"safe_mode": False}))
    assert not findings(member(tmp_path, "n.weights.h5", HDF5, model="net.py:build"))


@pytest.mark.parametrize("name", ["lgb.pkl", "xgb.pkl", "cat.pkl"])
def test_a_pickled_booster_is_told_how_to_be_saved(name: str, tmp_path: Path) -> None:
    """It travels as it is, with a note on the library's own format."""
    (found,) = findings(member(tmp_path, name, FILES[name][0]))
    assert found.severity is Severity.NOTE
    assert "save_model" in found.remedy


def test_a_folder_with_a_graph_and_its_weights_is_one_model(tmp_path: Path) -> None:
    """External data belongs to the graph; a folder with anything else in it is no model."""
    (tmp_path / "model.onnx").write_bytes(onnx(beside="model.data"))
    (tmp_path / "model.data").write_bytes(bytes(64))
    made = seen(tmp_path)
    assert made.framework == "onnx"
    assert not findings(made)
    (tmp_path / "other.txt").write_text("more")
    assert framework_table.match_framework(tmp_path) is None


def test_a_graph_is_read_without_its_weights(tmp_path: Path) -> None:
    """Operator sets, file format and the rows of its input, from the protobuf itself."""
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx(opset=19, form=9, rows=300, domain=b"ai.onnx.ml"))
    graph = read_graph(path)
    assert (graph.ir_version, graph.fixed_rows) == (9, 300)
    assert graph.opsets == {"": 19, "ai.onnx.ml": 1}
    path.write_bytes(path.read_bytes()[:-3])
    assert read_graph(path).ir_version == 9


def test_a_saved_model_is_a_folder_with_its_variables(tmp_path: Path) -> None:
    """The folder is the model; without its variables it stops the build."""
    said = part(1, 1) + part(2, part(1, part(5, b"2.20.0") + part(6, b"v2.20.0-rc0")))
    (tmp_path / "saved_model.pb").write_bytes(said)
    made = seen(tmp_path)
    assert [each.severity for each in findings(made)] == [Severity.STOP]
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(b"x")
    assert not findings(made)
    assert not framework_table.compare_versions([made], {"tensorflow": "2.20.1"})
    (older,) = framework_table.compare_versions([made], {"tensorflow": "2.18.0"})
    assert "TensorFlow 2.20.0" in older.what


COMPARED = {
    "its own format, read by a newer one": ("model.ubj", ubj(2, 0, 3), {"xgboost": "3.4.1"}, ""),
    "its own format, read by an older one": (
        "model.ubj",
        ubj(3, 4, 1),
        {"xgboost": "3.2.0"},
        "xgboost 3.4.1",
    ),
    "a patch release": ("model.skops", skops(version="1.6.0"), {"scikit-learn": "1.6.1"}, ""),
    "an older scikit-learn": ("model.skops", skops(version="1.5.2"), {"scikit-learn": "1.6.1"}, "1.5.2"),
    "a pickle of an older one": (
        "m.pkl",
        pickled("xgboost.core.Booster") + ubj(2, 1, 0),
        {"xgboost": "3.4.1"},
        "pickle",
    ),
    "an estimator pickled by LightGBM 3": (
        "m.pkl",
        pickled("lightgbm.sklearn.LGBMRegressor") + LIGHTGBM_3,
        {"lightgbm": "4.6.0"},
        "before 4.0",
    ),
    "a booster pickled by LightGBM 3": (
        "m.pkl",
        pickled("lightgbm.basic.Booster") + LIGHTGBM_3,
        {"lightgbm": "4.6.0"},
        "",
    ),
    "a booster pickled by LightGBM 4, for 3": (
        "m.pkl",
        pickled("lightgbm.basic.Booster") + LIGHTGBM,
        {"lightgbm": "3.3.5"},
        "4.0 or newer",
    ),
    "an estimator pickled by LightGBM 4": (
        "m.pkl",
        pickled("lightgbm.sklearn.LGBMRegressor") + LIGHTGBM,
        {"lightgbm": "4.6.0"},
        "",
    ),
    "an estimator whose LightGBM nothing tells": (
        "m.pkl",
        pickled("lightgbm.sklearn.LGBMRegressor"),
        {"lightgbm": "4.6.0"},
        "",
    ),
    "the text of LightGBM 3": ("m.txt", LIGHTGBM_3, {"lightgbm": "4.6.0"}, ""),
    "a pipeline around LightGBM 3": (
        "m.pkl",
        zlib.compress(pickled("sklearn.pipeline.Pipeline", "lightgbm.sklearn.LGBMRegressor") + LIGHTGBM_3),
        {"lightgbm": "4.6.0"},
        "before 4.0",
    ),
    "a pipeline around an older XGBoost": (
        "m.pkl",
        pickled("sklearn.pipeline.Pipeline", "xgboost.sklearn.XGBRegressor") + ubj(2, 1, 0),
        {"xgboost": "3.4.1"},
        "2.1.0",
    ),
    "Keras 2 for Keras 3": ("model.keras", keras(version="2.15.0"), {"keras": "3.13.2"}, "Keras 2"),
    "a newer Keras": ("model.keras", keras(version="3.15.1"), {"keras": "3.13.2"}, "3.15.1"),
    "operators that are too new": ("m.onnx", onnx(opset=26), {"onnxruntime": "1.24.1"}, "operator set 26"),
    "a file format that is too new": ("m.onnx", onnx(form=13), {"onnxruntime": "1.22.1"}, "(IR) 13"),
    "an onnxruntime that is newer than we know": ("m.onnx", onnx(opset=30), {"onnxruntime": "1.40.0"}, ""),
}


@pytest.mark.parametrize("case", COMPARED)
def test_the_version_of_training_is_compared_with_the_notebooks(case: str, tmp_path: Path) -> None:
    """What the library promises to read is silent; all else is warned of, with both versions."""
    name, content, there, told = COMPARED[case]
    made = member(tmp_path, name, content)
    (file,) = collect_checkpoints(tmp_path, [name], cache=tmp_path / "cache")
    found = framework_table.compare_versions([dataclasses.replace(made, files=(file,))], there)
    assert [told in each.what for each in found] == ([True] if told else [])
    for each in found:
        assert each.severity is Severity.WARN
        assert each.remedy


def test_what_a_pickle_is_made_of_is_required(tmp_path: Path) -> None:
    """A booster or an encoder inside of a pipeline is a package of the notebook; the user's own modules are not."""
    inside = pickled("sklearn.pipeline.Pipeline", "xgboost.sklearn.XGBClassifier", "mine.Scaler")
    (tmp_path / "model.pkl").write_bytes(inside)
    (tmp_path / "encoder.pkl").write_bytes(pickled("category_encoders.target_encoder.TargetEncoder"))
    weights = collect_checkpoints(tmp_path, ["model.pkl"], cache=tmp_path / "cache")
    beside = collect_checkpoints(tmp_path, ["encoder.pkl"], cache=tmp_path / "cache")
    resolved = members.resolve_members(NotebookSettings(task="tabular"), weights)
    found = members.list_member_packages(resolved, beside)
    assert {"scikit-learn", "xgboost", "category-encoders", "pandas"} <= set(found)
    assert not {"mine", "lightgbm"} & set(found)


def test_a_notebook_of_all_frameworks_holds_each_name_once(tmp_path: Path) -> None:
    """What is pasted into one notebook shares its names: none of them may hide another."""
    stage = Stage(tmp_path)
    folder = stage.project / "models"
    folder.mkdir()
    for name in (
        "model.txt",
        "model.ubj",
        "model.cbm",
        "model.onnx",
        "model.keras",
        "model.skops",
        "around.pkl",
    ):
        (folder / name).write_bytes(FILES[name][0])
    rendered = stage.notebook("models/*", task="tabular")
    code = [
        "".join(cell["source"]) for cell in json.loads(rendered.text)["cells"] if cell["cell_type"] == "code"
    ]
    defined = [
        node.name
        for text in code
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert sorted(defined) == sorted(set(defined))
    for each in ("lightgbm", "xgboost", "catboost", "onnx", "keras", "skops", "sklearn"):
        assert {f"load_{each}", f"predict_{each}"} <= set(defined)


def test_keras_computes_with_the_backend_that_is_asked_for(tmp_path: Path) -> None:
    """TensorFlow by default, as on Kaggle; another one brings no TensorFlow along."""
    stage = Stage(tmp_path)
    (stage.project / "models").mkdir()
    (stage.project / "models" / "model.keras").write_bytes(keras())
    assert "import tensorflow" in stage.notebook("models/*", task="tabular").text
    other = stage.notebook("models/*", task="tabular", params={"backend": "jax"}).text
    assert "import jax" in other
    assert "tensorflow" not in other
