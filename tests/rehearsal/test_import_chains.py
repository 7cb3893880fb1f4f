"""Which names a package cannot do without when it is imported."""

import io
import tarfile
from pathlib import Path

import pytest

from offline_kit.rehearsal.import_chains import find_unavoidable_imports
from tests.support.local_index import make_wheel


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import torch.nn as nn", {"torch"}),
        ("from numpy.linalg import norm", {"numpy"}),
        ("try:\n    import fast\nexcept ImportError:\n    fast = None", set()),
        ("try:\n    import fast\nexcept:\n    pass", set()),
        ("try:\n    import sure\nfinally:\n    pass", {"sure"}),
        ("def late():\n    import lazy", set()),
        ("if TYPE_CHECKING:\n    import typed", set()),
        ("class A:\n    import inside", {"inside"}),
        ("not python at all", set()),
    ],
)
def test_only_what_cannot_be_avoided_counts(tmp_path: Path, text: str, names: set[str]) -> None:
    """Functions, guards against a missing module and type checkers' branches import nothing."""
    wheel = make_wheel(tmp_path, "thing", "1.0", files={"thing/__init__.py": text})
    assert find_unavoidable_imports([wheel], ["thing"]) == names


def test_the_chain_is_followed_inside_and_across_packages(tmp_path: Path) -> None:
    """Modules that the package imports of itself and of its neighbours count, those that it leaves alone do not."""
    first = make_wheel(
        tmp_path,
        "first",
        "1.0",
        files={
            "first/__init__.py": "from . import core\nfrom .deep.er import thing",
            "first/core.py": "import second.side",
            "first/deep/__init__.py": "import from_package",
            "first/deep/er.py": "from ...too.far import x\nfrom ..core import y\nimport from_module",
            "first/contrib.py": "import never",
        },
    )
    second = make_wheel(
        tmp_path,
        "second",
        "1.0",
        files={"second/__init__.py": "import of_parent", "second/side.py": "import of_side"},
    )
    found = find_unavoidable_imports([first, second], ["first", "second"])
    assert {"from_package", "from_module", "of_parent", "of_side"} <= found
    assert "never" not in found


def test_sdists_are_read_below_their_folders(tmp_path: Path) -> None:
    """A src layout in a tarball is no obstacle; what is no archive imports nothing."""
    path = tmp_path / "thing-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        data = b"import torch"
        entry = tarfile.TarInfo("thing-1.0/src/thing/__init__.py")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    (tmp_path / "junk").write_text("junk")
    assert find_unavoidable_imports([path, tmp_path / "junk"], ["thing"]) == {"torch"}
