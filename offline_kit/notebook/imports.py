"""Which packages of the image the user's own code imports, found without running any of it."""

import ast
import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from packaging.utils import canonicalize_name

from offline_kit.notebook import cells
from offline_kit.project import import_names

ENGINES: dict[str, tuple[str, ...]] = {
    # pandas and polars, https://pandas.pydata.org/docs/getting_started/install.html#optional-dependencies
    **dict.fromkeys(("read_parquet", "to_parquet", "read_feather", "to_feather", "read_orc"), ("pyarrow",)),
    **dict.fromkeys(
        ("to_orc", "to_pandas", "to_arrow", "from_pandas", "from_arrow", "ArrowDtype"), ("pyarrow",)
    ),
    "read_excel": ("openpyxl", "xlrd", "python_calamine", "fastexcel"),
    "to_excel": ("openpyxl", "xlsxwriter"),
    "ExcelWriter": ("openpyxl", "xlsxwriter"),
    "ExcelFile": ("openpyxl", "xlrd"),
    **dict.fromkeys(("read_hdf", "to_hdf", "HDFStore"), ("tables",)),
    **dict.fromkeys(("read_sql", "read_sql_query", "read_sql_table", "to_sql"), ("sqlalchemy",)),
    "read_html": ("lxml", "bs4", "html5lib"),
    **dict.fromkeys(("read_xml", "to_xml"), ("lxml",)),
    "read_spss": ("pyreadstat",),
    "to_markdown": ("tabulate",),
    **dict.fromkeys(("style", "Styler", "to_html"), ("jinja2",)),
    **dict.fromkeys(("background_gradient", "plot", "hist", "boxplot"), ("matplotlib",)),
    "interpolate": ("scipy",),
    # torch, torchaudio, torchvision, https://docs.pytorch.org/audio/stable/torchaudio.html
    **dict.fromkeys(("torchaudio.load", "torchaudio.save", "torchaudio.info"), ("torchcodec", "soundfile")),
    "torchvision.io.read_video": ("av",),
    "SummaryWriter": ("tensorboard",),
    "TensorBoardLogger": ("tensorboard",),
    # transformers, https://huggingface.co/docs/transformers/installation
    **dict.fromkeys(("device_map", "low_cpu_mem_usage", "TrainingArguments"), ("accelerate",)),
    **dict.fromkeys(("AutoTokenizer", "AutoProcessor"), ("sentencepiece", "tiktoken", "google")),
    **dict.fromkeys(("BitsAndBytesConfig", "load_in_8bit", "load_in_4bit"), ("bitsandbytes", "accelerate")),
    "PeftModel": ("peft",),
    # readers that choose a backend at run time
    "pixel_array": ("pylibjpeg", "gdcm"),
    **dict.fromkeys(("open_dataset", "open_mfdataset"), ("netCDF4", "h5netcdf")),
    **dict.fromkeys(("write_image", "to_image"), ("kaleido",)),
    "tqdm.notebook": ("ipywidgets",),
    "plotly": ("nbformat",),
}
"""Optional dependencies by the function, keyword or module that needs them without an import in the user's code.

A dotted name must match in full. All listed modules that the image has are taken, because the data decides
which one is used.
"""


def find_imports(text: str) -> frozenset[str]:
    """Return the top-level names that a piece of Python imports, optional engines included."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return frozenset()
    modules, words = set[str](), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module} if node.module and not node.level else set()
            words |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            words |= {node.attr, ast.unparse(node)} if _is_dotted(node) else {node.attr}
        elif isinstance(node, (ast.Name, ast.keyword)):
            words.add((node.id if isinstance(node, ast.Name) else node.arg) or "")
    engines = {engine for word in words | modules for engine in ENGINES.get(word, ())}
    return frozenset({module.partition(".")[0] for module in modules} | (engines if modules else set()))


def _is_dotted(node: ast.expr) -> bool:
    """Whether an expression consists of names and dots only."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def find_file_imports(paths: Iterable[Path]) -> frozenset[str]:
    """Return the names that these files import: .py, .ipynb (magic lines left out), and wheels."""
    return frozenset(name for path in paths for text in _read_code(path) for name in find_imports(text))


def format_imports(names: Iterable[str]) -> frozenset[str]:
    """Return what the notebook itself imports to read files with these names."""
    return frozenset({"safetensors"} if any(name.endswith(".safetensors") for name in names) else ())


def _read_code(path: Path) -> Iterator[str]:
    if path.suffix == ".py":
        yield path.read_text(encoding="utf-8", errors="replace")
    elif path.suffix == ".ipynb":
        for cell in json.loads(path.read_text(encoding="utf-8")).get("cells", ()):
            if cell.get("cell_type") == "code":
                yield cells.extract_import_code("".join(cell.get("source", "")))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if name.endswith(".py"):
                    yield wheel.read(name).decode("utf-8", errors="replace")


@cache
def installed_imports() -> Mapping[str, list[str]]:
    """Return the distributions of the running environment by import name; reading them takes a while."""
    return importlib.metadata.packages_distributions()


def match_distributions(names: Iterable[str], installed: Container[str]) -> tuple[str, ...]:
    """Return the distributions among `installed` (normalized) that have these import names, sorted."""
    installed_names = installed_imports()
    matched = set()
    for name in names:
        if name in sys.stdlib_module_names:
            continue
        guesses = (*import_names.find_distributions(name), name, *installed_names.get(name, ()))
        matched |= set([guess for guess in map(canonicalize_name, guesses) if guess in installed][:1])
    return tuple(sorted(matched))
