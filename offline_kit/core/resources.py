"""Where the files that come with the package lie."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def templates_folder() -> Path:
    """Return the folder of the built-in templates: in the package when installed, beside it in a checkout."""
    carried = _PACKAGE / "templates"
    return carried if carried.is_dir() else _PACKAGE.parent / "templates"


def data_file(name: str) -> Path:
    """Return a file of `offline_kit/data`."""
    return _PACKAGE / "data" / name


def read_source(module: str) -> str:
    """Return the source of one of our own modules, by its name in the package."""
    return (_PACKAGE / f"{module}.py").read_text(encoding="utf-8")


def runtime_files() -> dict[str, bytes]:
    """Return the modules of the notebook's runtime by file name."""
    folder = _PACKAGE / "notebook" / "runtime"
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}
