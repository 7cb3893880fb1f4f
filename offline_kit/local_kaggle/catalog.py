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
from offline_kit.local_kaggle.links import DownloadLinks
from offline_kit.local_kaggle.packing import pack_folder, wrap_file
from offline_kit.local_kaggle.settings import LocalKaggleSettings
from offline_kit.local_kaggle.store import Record, RecordStore
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal
from offline_kit.project.kaggle_names import make_slug
from offline_kit.project.references import find_bound_names
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


class CompetitionCatalog:
    """The competitions of one local Kaggle; each knows its folder, which stays where it is."""

    def __init__(self, store: RecordStore, settings: LocalKaggleSettings, links: DownloadLinks) -> None:
        self.store = store
        self.settings = settings
        self.links = links

    def add_competition(self, folder: Path) -> str:
        """Take in a competition and return its slug; UsageError names what is wrong with the folder."""
        record = {**_read_competition(folder.absolute()), "created": self.store.current_time()}
        record.setdefault("daily", self.settings.daily_submissions)
        self.store.delete_record("competitions", record["slug"])
        self.store.write_record(
            {**record, "id": self.store.next_serial("competition")}, "competitions", record["slug"]
        )
        return str(record["slug"])

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about competitions and their data."""
        calls: dict[str, Rpc] = {
            "ListCompetitions": self.list_all,
            "GetCompetition": lambda call: self._describe_competition(
                self.get_competition(call.text_field("competitionName"))
            ),
            "ListDataFiles": self.list_data_files,
            "DownloadDataFile": self.download_data,
            "DownloadDataFiles": self.download_all,
        }
        return {SERVICE + name: call for name, call in calls.items()}

    def get_competition(self, slug: str) -> Record:
        """Return a competition; 404 if there is none."""
        record = self.store.read("competitions", slug)
        if record is None:
            raise ServiceRefusal(404, f"Competition '{slug}' not found")
        return record

    def open_competition(self, slug: str) -> Record:
        """Return a competition that takes submissions; refuses one that does not, with the reason."""
        record = self.get_competition(slug)
        if not record["entered"]:
            raise ServiceRefusal(403, "You must accept this competition's rules before you can take part")
        if record["closed"]:
            raise ServiceRefusal(400, "Submission not allowed: this competition takes no submissions")
        if self.store.current_time() > datetime.fromisoformat(record["deadline"]).timestamp():
            raise ServiceRefusal(400, "Submission not allowed: the competition's deadline has passed")
        return record

    def mounted_data(self, ref: str, user: str) -> tuple[str, Path] | None:  # noqa: ARG002 - all may see it
        """Return place and folder of the public data."""
        try:
            record = self.get_competition(ref)
        except ServiceRefusal:
            return None
        return f"competitions/{record['slug']}", Path(record["public"])

    def hidden_entries(self, record: Record) -> dict[str, Path]:
        """Return the entries of the data as a hidden run sees it."""
        folders = [Path(record["public"]), *([Path(record["hidden"])] if record["hidden"] else [])]
        return {entry.name: entry for folder in folders for entry in sorted(folder.iterdir())}

    def list_all(self, call: RpcCall) -> Mapping[str, Any]:
        """List the competitions."""
        page, following = _LISTING.page_of_things(self.store.iter_records("competitions"), call.body)
        return {
            "competitions": [self._describe_competition(record) for record in page],
            "nextPageToken": following,
        }

    def list_data_files(self, call: RpcCall) -> Mapping[str, Any]:
        """List the public files."""
        record = self.get_competition(call.text_field("competitionName"))
        public = Path(record["public"])
        files = [
            {"name": name, "totalBytes": (public / name).stat().st_size, "creationDate": wire.format_time(record["created"])}
            for name in _list_names(public)
        ]  # fmt: skip
        page, following = wire.slice_page(files, call.body)
        return {"files": page, "nextPageToken": following}

    def download_data(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of one public file; a large one comes as NAME.zip."""
        record, name = self._joined_competition(call), call.text_field("fileName")
        public = Path(record["public"])
        if name not in set(_list_names(public)):
            raise ServiceRefusal(404, f"File '{name}' not found")
        archive_folder = self.store.key_folder("competitions", record["slug"]) / "wrapped"
        path = wrap_file(public, Path(name), archive_folder, self.settings.wrapped_from)
        return wire.redirect_answer(self.links.create_link(call.base, path, path.name))

    def download_all(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of a zip of all public files."""
        record = self._joined_competition(call)
        final = pack_folder(
            Path(record["public"]), self.store.key_folder("competitions", record["slug"]) / "all.zip"
        )
        return wire.redirect_answer(self.links.create_link(call.base, final, f"{record['slug']}.zip"))

    def _joined_competition(self, call: RpcCall) -> Record:
        """Return a competition whose data the caller may fetch: 403 where nobody has accepted its rules."""
        record = self.get_competition(call.text_field("competitionName"))
        if not call.user or not record["entered"]:
            raise ServiceRefusal(
                403, "You must accept this competition's rules before you can download its data"
            )
        return record

    def _describe_competition(self, record: Record) -> dict[str, Any]:
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
            "enabledDate": wire.format_time(record["created"]),
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


_LISTING = wire.ListingRules[Record](
    filters={
        "group": _in_tab,
        "category": lambda record, word: word.rpartition("_SEGMENT_")[2] == _mount_name(record),
        "search": lambda record, words: wire.matches_search(words, record["slug"], record["title"]),
    },
    orders={
        "_EARLIEST_DEADLINE": lambda record: record["deadline"],
        "_LATEST_DEADLINE": lambda record: -datetime.fromisoformat(record["deadline"]).timestamp(),
        "_RECENTLY_CREATED": lambda record: -record["created"],
    },
)


def _mount_name(record: Record) -> str:
    return str(record.get("category", "")).upper().replace(" ", "_")


def _list_names(folder: Path) -> Iterator[str]:
    return (path.as_posix() for path in files.list_tree(folder))


def _check_metric(metric: str, folder: Path) -> list[str]:
    """Return what is wrong with a metric, before a submission is spent on it; nothing of its file is run."""
    if not metric:
        return ["`metric` is missing"]
    metric_path, colon, function = metric.partition(":")
    if colon:
        try:
            tree = ast.parse((folder / metric_path).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError) as error:
            return [f"the metric's file '{metric_path}' cannot be read: {error}"]
        names, open_ended = find_bound_names(tree.body)
        if function not in names and not open_ended:
            return [f"'{metric_path}' defines no '{function}'"]
        return _missing_packages(
            metric, [name for name in _imported_packages(tree) if not _lies_in(folder, name)]
        )
    if missing := _missing_packages(metric, ["sklearn"]):
        return missing
    known_metrics = dir(importlib.import_module("sklearn.metrics"))
    return (
        [] if metric in known_metrics else [f"unknown metric '{metric}'{suggest_name(metric, known_metrics)}"]
    )


def _imported_packages(tree: ast.Module) -> list[str]:
    """Return the packages that a file needs wherever it imports them, but for those that it tries."""
    optional = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in optional:
            names |= dict.fromkeys(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and id(node) not in optional:
            names[str(node.module).partition(".")[0]] = None
    return list(names)


def _lies_in(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file()


def _missing_packages(metric: str, names: Iterable[str]) -> list[str]:
    """Return which packages a metric needs and this Python, in which it is computed, does not have."""
    return [
        f"the metric '{metric}' needs {name}, which is not installed beside offline-kit:"
        f" run '{sys.executable} -m pip install {_DISTRIBUTIONS.get(name, name)}'"
        for name in names
        if importlib.util.find_spec(name) is None
    ]


def _read_competition(folder: Path) -> Record:
    """Read a competition's folder into a record of absolute paths."""
    path = folder / "competition.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"'{folder}' is no competition: {error}",
            code="competition-invalid",
            hint="write a competition.toml into it",
        ) from error
    problems = [f"unknown key '{key}'" for key in sorted(set(settings) - _KEYS)]
    problems += _check_metric(str(settings.get("metric", "")), folder)
    hidden = folder / settings.get("hidden", "hidden")
    record = {
        "slug": settings.get("slug") or make_slug(folder.name),
        "public": str(folder / settings.get("public", "public")),
        "hidden": str(hidden) if hidden.is_dir() else "",
        "solution": str(folder / settings.get("solution", "solution.csv")),
        "folder": str(folder),
        "metric": str(settings.get("metric", "")),
        "options": settings.get("options", {}),
        "id_column": settings.get("id", ""),
        "submission": settings.get("submission", "submission.csv"),
        "code_only": settings.get("code_only", hidden.is_dir()),
        "deadline": _parse_deadline(settings.get("deadline", _FAR), problems),
        "closed": bool(settings.get("closed", False)),
        "entered": bool(settings.get("entered", True)),
        "seconds": 3600.0 * settings.get("hours", 9),
        "category": settings.get("category", "LOCAL"),
        "lower": bool(settings.get("lower_is_better", str(settings.get("metric", "")).endswith(_LOWER))),
    }
    if record["category"] not in _CATEGORIES:
        problems.append(
            f"unknown category '{record['category']}'{suggest_name(record['category'], _CATEGORIES)}"
        )
    if "gateway" in settings:
        record["gateway"] = settings["gateway"]
        if not isinstance(settings["gateway"], str):
            problems += gateway_standin.find_option_problems(settings["gateway"])
    record["title"] = settings.get("title") or str(record["slug"]).replace("-", " ").capitalize()
    problems += [f"no folder '{record['public']}'"] if not Path(str(record["public"])).is_dir() else []
    problems += [f"no folder '{hidden}'"] if "hidden" in settings and not hidden.is_dir() else []
    problems += [f"no file '{record['solution']}'"] if not Path(str(record["solution"])).is_file() else []
    if problems:
        raise UsageError(
            f"'{path}' cannot be used", code="competition-invalid", hint="fix these", details=problems
        )
    return {**record, **({"daily": int(settings["daily"])} if "daily" in settings else {})}


def _parse_deadline(settings: object, problems: list[str]) -> str:
    """Return a date of TOML, or a text of one, as the service writes it; UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(str(settings))
    except ValueError:
        problems.append(f"deadline '{settings}' is no date")
        moment = _FAR
    return wire.format_time((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
