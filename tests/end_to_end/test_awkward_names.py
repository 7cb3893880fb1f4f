"""Names that Kaggle would mangle, a kit in three parts, an index behind a password: all in one project."""

from pathlib import Path

import pytest

from tests.support.local_index import LocalIndex, make_wheel
from tests.support.workbench import evidence, project, run

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.sandbox]

SECRET = "swordfish+%/1"

EVIDENCE = """
def evidence(context):
    from importlib import metadata
    import private_thing, stray.module
    return {
        "checkpoints": [path.relative_to(context.kit).as_posix() for path in context.checkpoints],
        "contents": [path.read_text() for path in context.checkpoints],
        "version": metadata.version("private-thing"),
        "inputs": sorted(context.inputs),
        "module": stray.module.NAME,
    }
"""

FOLDS = [
    "fold0/best.ckpt",
    "fold1/best.ckpt",
    "Fold1/best.ckpt",
    "epoch=4-step=119.ckpt",
    "modèle à jour.bin",
]


def test_original_names_come_back_and_no_secret_is_written(tmp_path: Path) -> None:
    """Folds that share a name, `=`, spaces, letters beyond ASCII, `+local` versions: the notebook sees the originals."""
    with LocalIndex() as index:
        index.add(make_wheel(tmp_path, "private-thing", "1.0+cu118"))
        url = index.with_credentials("somebody", SECRET)
        folder = project(
            tmp_path / "project",
            ["private-thing"],
            EVIDENCE,
            more='parts = "split"\ncheckpoints = ["weights"]\nmodules = ["stray"]\n',
        )
        for name in FOLDS:
            path = folder / "weights" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (folder / "stray").mkdir()
        (folder / "stray" / "module.py").write_text("NAME = 'stray'\n")
        words = ("rehearse", folder, "--env", "current", "--layout", "old")
        done = run(*words, env={"PIP_EXTRA_INDEX_URL": url}).good()
    seen = evidence(folder)
    assert sorted(seen["contents"]) == sorted(FOLDS)
    assert all(path.endswith(name) for path, name in zip(seen["checkpoints"], seen["contents"], strict=True))
    assert seen["version"] == "1.0+cu118"
    assert seen["module"] == "stray"
    parts = {path.parent.name for path in (folder / "dist").rglob("offline-kit.json")}
    assert len(parts) == 3, parts

    written = [path for path in folder.rglob("*") if path.is_file() and path.name != "answer.py"]
    words_of_secret = (
        SECRET,
        index.with_credentials("somebody", SECRET).partition("@")[0].rpartition(":")[2],
    )
    for word in words_of_secret:
        assert word not in done.out + done.err
        assert [path for path in written if word.encode() in path.read_bytes()] == []
    assert [
        path
        for path in written
        if str(tmp_path).encode() in path.read_bytes() and "rehearsal" not in path.parts
    ] == []
