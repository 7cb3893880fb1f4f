"""Competitions made from folders, and their data.

A folder has a `competition.toml`; every key has a default but `metric`:

    title = "Which digits"            # default: from the slug
    slug = "which-digits"             # default: the folder's name
    public = "public"                 # what everybody sees; mounted at /kaggle/input/competitions/<slug>
    hidden = "hidden"                 # in a hidden run, each of its entries stands in place of public's of that name
    solution = "solution.csv"         # id and targets; a column Usage (Public, Private) splits the scores
    metric = "f1_score"               # of scikit-learn, called as (truth, prediction); or "file.py:function",
                                      # called as (submission, solution), two paths of tables with the same ids
    options = { average = "macro" }   # for scikit-learn's
    id = "image"                      # default: the solution's first column
    submission = "submission.csv"     # what a notebook has to write
    daily = 5                         # submissions a day (UTC)
    code_only = true                  # files are refused; default: whether there is a hidden folder
    deadline = 2099-01-01T00:00:00Z   # after it, submissions are refused
    closed = false                    # true: it takes no submissions at all
    entered = true                    # false: nobody has accepted its rules
    hours = 9                         # of the hidden run
    gateway = { batches = "pandas" }  # an inference server: options of the stand-in for its gateway, {} for none; or
                                      # "module:Class" of the kaggle_evaluation that `public` brings
    category = "Playground"           # or Featured, Research, Recruitment, Getting Started, Masters, Community, Analytics
    lower_is_better = false           # of the leaderboard; default: true for a metric named ..._error, _loss or _deviance
"""

import ast
import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import UsageError, suggest_name
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.links import Links
from offline_kit.local_kaggle.packing import packed, wrapped
from offline_kit.local_kaggle.settings import Settings
from offline_kit.local_kaggle.store import Record, Store
from offline_kit.local_kaggle.wire import Answer, Call, Refusal, Rpc
from offline_kit.project.kaggle_names import slug_of
from offline_kit.project.references import bound_names
from offline_kit.rehearsal import gateway_standin

SERVICE = "competitions.CompetitionApiService/"
_KEYS = {
    *("title", "slug", "public", "hidden", "solution", "metric", "options", "id", "submission", "daily"),
    *("code_only", "deadline", "closed", "entered", "hours", "category", "lower_is_better", "gateway"),
}
_CATEGORIES = (
    *("Featured", "Research", "Recruitment", "Getting Started", "Masters", "Playground", "Community"),
    *("Analytics", "LOCAL"),
)
_LOWER = ("_error", "_loss", "_deviance")
"""How scikit-learn ends the names of metrics of which less is better."""
_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "PIL": "pillow",
}
"""Packages of metrics that are installed under another name than they are imported by."""
_FAR = datetime(2099, 1, 1, tzinfo=UTC)


class Catalog:
    """The competitions of one local Kaggle; each knows its folder, which stays where it is."""

    def __init__(self, store: Store, settings: Settings, links: Links) -> None:
        self.store = store
        self.settings = settings
        self.links = links

    def add(self, folder: Path) -> str:
        """Take in a competition and return its slug; UsageError names what is wrong with the folder."""
        record = {**_read(folder.absolute()), "created": self.store.now()}
        record.setdefault("daily", self.settings.daily_submissions)
        self.store.remove("competitions", record["slug"])
        self.store.write({**record, "id": self.store.serial("competition")}, "competitions", record["slug"])
        return str(record["slug"])

    def rpcs(self) -> dict[str, Rpc]:
        """Return the calls about competitions and their data."""
        calls: dict[str, Rpc] = {
            "ListCompetitions": self.list_all,
            "GetCompetition": lambda call: self._told(self.get(call.text("competitionName"))),
            "ListDataFiles": self.list_files,
            "DownloadDataFile": self.download,
            "DownloadDataFiles": self.download_all,
        }
        return {SERVICE + name: call for name, call in calls.items()}

    def get(self, slug: str) -> Record:
        """Return a competition; 404 where there is none."""
        record = self.store.read("competitions", slug)
        if record is None:
            raise Refusal(404, f"Competition '{slug}' not found")
        return record

    def open(self, slug: str) -> Record:
        """Return a competition that takes submissions; refuses one that does not, with the reason."""
        record = self.get(slug)
        if not record["entered"]:
            raise Refusal(403, "You must accept this competition's rules before you can take part")
        if record["closed"]:
            raise Refusal(400, "Submission not allowed: this competition takes no submissions")
        if self.store.now() > datetime.fromisoformat(record["deadline"]).timestamp():
            raise Refusal(400, "Submission not allowed: the competition's deadline has passed")
        return record

    def mounted(self, ref: str, user: str) -> tuple[str, Path] | None:  # noqa: ARG002 - all may see it
        """Return place and folder of the public data."""
        try:
            record = self.get(ref)
        except Refusal:
            return None
        return f"competitions/{record['slug']}", Path(record["public"])

    def hidden(self, record: Record) -> dict[str, Path]:
        """Return the entries of the data as a hidden run sees it."""
        folders = [Path(record["public"]), *([Path(record["hidden"])] if record["hidden"] else [])]
        return {entry.name: entry for folder in folders for entry in sorted(folder.iterdir())}

    def list_all(self, call: Call) -> Mapping[str, Any]:
        """List the competitions."""
        page, following = _LISTING.page(self.store.records("competitions"), call.body)
        return {"competitions": [self._told(record) for record in page], "nextPageToken": following}

    def list_files(self, call: Call) -> Mapping[str, Any]:
        """List the public files."""
        record = self.get(call.text("competitionName"))
        public = Path(record["public"])
        found = [
            {"name": name, "totalBytes": (public / name).stat().st_size, "creationDate": wire.stamp(record["created"])}
            for name in _names(public)
        ]  # fmt: skip
        page, following = wire.page_of(found, call.body)
        return {"files": page, "nextPageToken": following}

    def download(self, call: Call) -> Answer:
        """Send to the link of one public file; a large one comes as NAME.zip."""
        record, name = self._joined(call), call.text("fileName")
        public = Path(record["public"])
        if name not in set(_names(public)):
            raise Refusal(404, f"File '{name}' not found")
        beside = self.store.place("competitions", record["slug"]) / "wrapped"
        path = wrapped(public, Path(name), beside, self.settings.wrapped_from)
        return wire.redirect(self.links.give(call.base, path, path.name))

    def download_all(self, call: Call) -> Answer:
        """Send to the link of a zip of all public files."""
        record = self._joined(call)
        final = packed(Path(record["public"]), self.store.place("competitions", record["slug"]) / "all.zip")
        return wire.redirect(self.links.give(call.base, final, f"{record['slug']}.zip"))

    def _joined(self, call: Call) -> Record:
        """Return a competition whose data the caller may fetch: 403 where nobody has accepted its rules."""
        record = self.get(call.text("competitionName"))
        if not call.user or not record["entered"]:
            raise Refusal(403, "You must accept this competition's rules before you can download its data")
        return record

    def _told(self, record: Record) -> dict[str, Any]:
        url = f"{wire.HERE}/competitions/{record['slug']}"
        return {
            "id": record["id"],
            "ref": url,
            "url": url,
            "title": record["title"],
            "deadline": record["deadline"],
            "category": record.get("category", "LOCAL"),
            "reward": "LOCAL",
            "organizationName": "LOCAL",
            "evaluationMetric": record["metric"],
            "enabledDate": wire.stamp(record["created"]),
            "teamCount": 1,
            "userHasEntered": record["entered"],
            "maxDailySubmissions": record["daily"],
            "maxTeamSize": 1,
            "isKernelsSubmissionsOnly": record["code_only"],
            "submissionsDisabled": record["closed"],
        }


def _in_tab(record: Record, tab: str) -> bool:
    """Tell whether a competition stands in a tab of the list; none is hosted or unlaunched."""
    community = record.get("category") == "Community"
    return {"GENERAL": not community, "COMMUNITY": community, "ENTERED": bool(record["entered"])}.get(
        tab.rpartition("_TAB_")[2], tab.endswith("_EVERYTHING")
    )


_LISTING = wire.Listing[Record](
    filters={
        "group": _in_tab,
        "category": lambda record, word: word.rpartition("_SEGMENT_")[2] == _segment(record),
        "search": lambda record, words: wire.matches(words, record["slug"], record["title"]),
    },
    orders={
        "_EARLIEST_DEADLINE": lambda record: record["deadline"],
        "_LATEST_DEADLINE": lambda record: -datetime.fromisoformat(record["deadline"]).timestamp(),
        "_RECENTLY_CREATED": lambda record: -record["created"],
    },
)


def _segment(record: Record) -> str:
    return str(record.get("category", "")).upper().replace(" ", "_")


def _names(folder: Path) -> Iterator[str]:
    return (path.as_posix() for path in files.list_tree(folder))


def _about_metric(metric: str, folder: Path) -> list[str]:
    """Return what is wrong with a metric, before a submission is spent on it; nothing of its file is run."""
    if not metric:
        return ["`metric` is missing"]
    place, colon, function = metric.partition(":")
    if colon:
        try:
            tree = ast.parse((folder / place).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError) as error:
            return [f"the metric's file '{place}' cannot be read: {error}"]
        names, open_ended = bound_names(tree.body)
        if function not in names and not open_ended:
            return [f"'{place}' defines no '{function}'"]
        return _missing(metric, [name for name in _imported(tree) if not _lies_in(folder, name)])
    if missing := _missing(metric, ["sklearn"]):
        return missing
    known = dir(importlib.import_module("sklearn.metrics"))
    return [] if metric in known else [f"unknown metric '{metric}'{suggest_name(metric, known)}"]


def _imported(tree: ast.Module) -> list[str]:
    """Return the packages that a file needs wherever it imports them, but for those that it tries."""
    tried = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in tried:
            names |= dict.fromkeys(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and id(node) not in tried:
            names[str(node.module).partition(".")[0]] = None
    return list(names)


def _lies_in(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file()


def _missing(metric: str, names: Iterable[str]) -> list[str]:
    """Return which packages a metric needs and this Python, in which it is computed, does not have."""
    return [
        f"the metric '{metric}' needs {name}, which is not installed beside offline-kit:"
        f" run '{sys.executable} -m pip install {_DISTRIBUTIONS.get(name, name)}'"
        for name in names
        if importlib.util.find_spec(name) is None
    ]


def _read(folder: Path) -> Record:
    """Read a competition's folder into a record of absolute paths."""
    place = folder / "competition.toml"
    try:
        told = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"'{folder}' is no competition: {error}", hint="write a competition.toml into it"
        ) from error
    problems = [f"unknown key '{key}'" for key in sorted(set(told) - _KEYS)]
    problems += _about_metric(str(told.get("metric", "")), folder)
    hidden = folder / told.get("hidden", "hidden")
    record = {
        "slug": told.get("slug") or slug_of(folder.name),
        "public": str(folder / told.get("public", "public")),
        "hidden": str(hidden) if hidden.is_dir() else "",
        "solution": str(folder / told.get("solution", "solution.csv")),
        "folder": str(folder),
        "metric": str(told.get("metric", "")),
        "options": told.get("options", {}),
        "id_column": told.get("id", ""),
        "submission": told.get("submission", "submission.csv"),
        "code_only": told.get("code_only", hidden.is_dir()),
        "deadline": _deadline(told.get("deadline", _FAR), problems),
        "closed": bool(told.get("closed", False)),
        "entered": bool(told.get("entered", True)),
        "seconds": 3600.0 * told.get("hours", 9),
        "category": told.get("category", "LOCAL"),
        "lower": bool(told.get("lower_is_better", str(told.get("metric", "")).endswith(_LOWER))),
    }
    if record["category"] not in _CATEGORIES:
        problems.append(
            f"unknown category '{record['category']}'{suggest_name(record['category'], _CATEGORIES)}"
        )
    if "gateway" in told:
        record["gateway"] = told["gateway"]
        if not isinstance(told["gateway"], str):
            problems += gateway_standin.option_problems(told["gateway"])
    record["title"] = told.get("title") or str(record["slug"]).replace("-", " ").capitalize()
    problems += [f"no folder '{record['public']}'"] if not Path(str(record["public"])).is_dir() else []
    problems += [f"no folder '{hidden}'"] if "hidden" in told and not hidden.is_dir() else []
    problems += [f"no file '{record['solution']}'"] if not Path(str(record["solution"])).is_file() else []
    if problems:
        raise UsageError(f"'{place}' cannot be used", hint="fix these", details=problems)
    return {**record, **({"daily": int(told["daily"])} if "daily" in told else {})}


def _deadline(told: object, problems: list[str]) -> str:
    """Return a date of TOML, or a text of one, as the service writes it; UTC unless it says otherwise."""
    try:
        when = datetime.fromisoformat(str(told))
    except ValueError:
        problems.append(f"deadline '{told}' is no date")
        when = _FAR
    return wire.stamp((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
