"""Pickles of a training script find its names in a notebook."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import pytest

from offline_kit.notebook.runtime.kit_hooks import AliasedMain, alias_main
from offline_kit.notebook.runtime.kit_runtime import KitError, OpenKit, SessionFolders

SCRIPT = """
import pickle, sys
FACTOR = 3

class Cleaner:
    class Step:
        pass
    def __init__(self):
        self.step = Cleaner.Step()
    def clean(self, x):
        return x * FACTOR

def predict(x):
    return x + FACTOR

if __name__ == "__main__":
    import joblib
    pickle.dump([Cleaner(), predict], open("model.pkl", "wb"), protocol=int(sys.argv[1]))
    joblib.dump(Cleaner(), "model.joblib")
"""


def trained(folder: Path, protocol: int = 4) -> OpenKit:
    """Run the script as a training, and return a kit that holds it as code."""
    code = folder / "kit" / "code"
    code.mkdir(parents=True)
    (code / "train_it.py").write_text(SCRIPT)
    subprocess.run([sys.executable, code / "train_it.py", str(protocol)], cwd=folder, check=True)
    return OpenKit(folder / "kit", SessionFolders())


@pytest.fixture(autouse=True)
def _own_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what stood for `__main__` and what was imported."""
    for name in ("__main__", "__mp_main__"):
        monkeypatch.setitem(sys.modules, name, sys.modules["__main__"])
    for name in ("train_it", "kit_code_train_it"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_find_the_scripts_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, protocol: int
) -> None:
    """A class, a nested class and a function of the script load, by pickle and joblib, and work."""
    kit = trained(tmp_path, protocol)
    alias_main("train_it.py", ["Cleaner", "predict"], kit)
    said = capsys.readouterr().out.splitlines()
    cleaner, predict = pickle.loads((tmp_path / "model.pkl").read_bytes())
    assert (cleaner.clean(2), predict(2), type(cleaner.step).__qualname__) == (6, 5, "Cleaner.Step")
    assert joblib.load(tmp_path / "model.joblib").clean(1) == 3
    assert said == ["available in __main__, from train_it.py: Cleaner, predict"]


def test_the_notebooks_own_names_stay(tmp_path: Path) -> None:
    """A function of the same name in the notebook is neither hidden nor changed, and stays reachable."""
    main: Any = sys.modules["__main__"]
    alias_main("train_it.py", ["predict"], trained(tmp_path))
    alias_main("train_it.py", ["Cleaner"], OpenKit(tmp_path / "kit", SessionFolders()))
    lent = sys.modules["__main__"]
    assert isinstance(lent, AliasedMain)
    assert lent.notebook is main
    assert not hasattr(main, "Cleaner")
    assert lent.__spec__ is None or lent.__spec__ == main.__spec__


def test_a_script_that_does_its_work_at_the_top(tmp_path: Path) -> None:
    """What fails there is told with the file, its line, why it was run at all, and what helps."""
    code = tmp_path / "kit" / "code"
    code.mkdir(parents=True)
    (code / "train_it.py").write_text("class Shrink: pass\n\ndata = open('input/train.csv').read()\n")
    with pytest.raises(KitError) as caught:
        alias_main("train_it.py", ["Shrink"], OpenKit(tmp_path / "kit", SessionFolders()))
    cause, remedy = caught.value.what, caught.value.hint
    assert cause.startswith(
        "'train_it.py' (`main_from`) was run to find 'Shrink', and its own top level fails"
    )
    assert "in line 3, `data = open('input/train.csv').read()`: FileNotFoundError" in cause
    assert '`if __name__ == "__main__":`' in remedy


def test_a_name_that_the_file_lacks(tmp_path: Path) -> None:
    """A script that changed since the training is told with what it has."""
    with pytest.raises(KitError, match="has no 'Scaler'"):
        alias_main("train_it.py", ["Scaler"], trained(tmp_path))


def test_in_a_real_notebook(tmp_path: Path) -> None:
    """In a notebook that has a `predict` of its own, cells later on load the pickle."""
    import nbclient
    import nbformat as untyped

    nbformat: Any = untyped
    trained(tmp_path)
    uses = f"""
import pickle
cleaner, lent = pickle.load(open({str(tmp_path / "model.pkl")!r}, "rb"))
print(cleaner.clean(2), lent(2), predict(2))
"""
    lends = f"""
from pathlib import Path
from offline_kit.notebook.runtime.kit_hooks import alias_main
from offline_kit.notebook.runtime.kit_runtime import OpenKit, SessionFolders
def predict(x):
    return "of the notebook"
kit = OpenKit(Path({str(tmp_path / "kit")!r}), SessionFolders())
alias_main("train_it.py", ["Cleaner", "predict"], kit)
"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (lends, uses)])
    nbclient.NotebookClient(book, timeout=60, kernel_name="python3").execute()
    assert book.cells[-1].outputs[0].text == "6 5 of the notebook\n"
