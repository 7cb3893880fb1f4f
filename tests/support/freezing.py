"""A project, a small image and an index of our own, to freeze against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offline_kit.packages.freeze.freeze import FreezeRequest, freeze_requirements
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.config import Config
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Freeze, Pin
from tests.support.local_index import LocalIndex, make_wheel

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
IMAGE = Image(
    name="tiny",
    title="a tiny image",
    accelerator="none",
    python="3.13.5",
    packages={"numpy": "2.1.3", "torch": "2.11.0+cpu", "pandas": "2.3.3", "optuna": "5.0", "gitted": "1.0", "glue": "1.0"},
    protected=frozenset({"numpy", "torch"}),
    accelerator_families=("nvidia-*", "triton"),
)  # fmt: skip
STOCK: Sequence[tuple[str, str, Sequence[str], Mapping[str, Sequence[str]]]] = (
    ("numpy", "1.26.4", [], {}),
    ("numpy", "2.1.3", [], {}),
    ("numpy", "2.4.0", [], {}),
    ("torch", "2.11.0", ["nvidia-cublas==13.0", "numpy"], {"opt": ["einops"]}),
    ("torch", "2.15.0", ["nvidia-cublas==14.0", "numpy"], {}),
    ("nvidia-cublas", "13.0", [], {}),
    ("nvidia-cublas", "14.0", [], {}),
    ("einops", "0.8", [], {}),
    ("pandas", "2.3.3", ["numpy"], {"excel": ["xlsx>=3"]}),
    ("pandas", "3.0", ["numpy"], {"excel": ["xlsx>=3"]}),
    ("xlsx", "3.1", [], {}),
    ("glue", "1.0", ["pandas<3"], {}),
    ("optuna", "5.0", ["numpy"], {"optional": ["cmaes", "pandas[excel]"]}),
    ("cmaes", "0.13", ["numpy"], {}),
    ("alpha", "1.0", ["numpy", "beta>=1"], {}),
    ("beta", "1.0", [], {}),
    ("vision", "1.0", ["torch>=2", "numpy"], {}),
    ("modern", "1.0", ["numpy>=2.3"], {}),
)


CONFIG_FIELDS = [item.name for item in fields(Config)]


@dataclass
class Case:
    """One project before one index."""

    folder: Path
    """A folder of its own."""
    index: LocalIndex
    """The index, running."""
    image: Image = IMAGE
    """The image."""
    settings: IndexSettings = field(default_factory=IndexSettings)
    """Set by `stocked` to the index."""

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.folder / "project"

    @property
    def lock(self) -> Path:
        """The written freeze."""
        return self.project / "offline-kit.lock.txt"

    def add(self, name: str, version: str, requires: Sequence[str] = (), **more: Any) -> None:
        """Put one more wheel on the index; `upload_time` goes to it, the rest to the wheel."""
        times = {key: more.pop(key) for key in ("upload_time", "requires_python") if key in more}
        self.index.add(make_wheel(self.folder / "wheels", name, version, requires=requires, **more), **times)

    def freeze(self, *lines: str, own: tuple[str, ...] = (), **request: Any) -> Freeze:
        """Write requirements.in with these lines and freeze it."""
        self.project.mkdir(exist_ok=True)
        path = self.project / "requirements.in"
        path.write_text("".join(f"{line}\n" for line in lines))
        settings: dict[str, Any] = {"requirements": (path,), "engine": "uv"}
        settings |= {name: request.pop(name) for name in {*request} & {*CONFIG_FIELDS}}
        config = Config(project=self.project, name="", version="", **settings)
        asked = FreezeRequest(config=config, own=own, **{"moment": NOW, **request})
        return freeze_requirements(asked, self.image, self.settings, cache=self.folder / "cache")[0]

    def with_image(self, **changes: Any) -> "Case":
        """Return the same case before another image."""
        return replace(self, image=replace(self.image, **changes))


def stocked(folder: Path, index: LocalIndex) -> Case:
    """Return a case whose index has the usual stock."""
    case = Case(folder=folder, index=index, settings=IndexSettings(index_url=index.url))
    for name, version, requires, extras in STOCK:
        case.add(name, version, requires, extras=extras)
    return case


def fates(freeze: Freeze) -> dict[str, str]:
    """Return "fate version" by name."""
    return {pin.name: f"{pin.fate.value} {pin.version}" for pin in freeze.pins}


def pin(freeze: Freeze, name: str) -> Pin:
    """Return the pin of this name."""
    return next(one for one in freeze.pins if one.name == name)


def bundled(freeze: Freeze) -> dict[str, str]:
    """Return versions of bundled pins by name."""
    return {one.name: one.version for one in freeze.pins_with(Fate.BUNDLED)}
