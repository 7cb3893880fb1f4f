"""Competitions made from folders, and their data.

docs/guide/local-kaggle.md describes the keys of a folder's `competition.toml`. A minimal one is

    metric = "f1_score"               # of scikit-learn, called as (truth, prediction); or "file.py:function",
                                      # called as (submission, solution), two paths of tables with the same ids
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
from offline_kit.local_kaggle.store import Record, Service, pack_folder, wrap_file
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc
from offline_kit.project.import_names import find_distributions
from offline_kit.project.kaggle_names import make_slug
from offline_kit.project.references import find_bound_names
from offline_kit.rehearsal import gateway_standin

_KEYS = {
    *("title", "slug", "public", "hidden", "solution", "metric", "options", "id", "submission", "daily"),
    *("code_only", "deadline", "closed", "entered", "hours", "category", "lower_is_better", "gateway"),
}
_CATEGORIES = (
    *("Featured", "Research", "Recruitment", "Getting Started", "Masters", "Playground", "Community"),
    *("Analytics", "LOCAL"),
)
# How scikit-learn ends the names of metrics of which less is better.
_LESS_IS_BETTER = ("_error", "_loss", "_deviance")
_FAR = datetime(2099, 1, 1, tzinfo=UTC)


class CompetitionCatalog(Service):
    """The competitions of one local Kaggle; each knows its folder, which stays where it is."""

    def add_competition(self, folder: Path) -> str:
        """Take in a competition and return its slug; UsageError names what is wrong with the folder."""
        record = {"daily": self.settings.daily_submissions, **_read_competition(folder.absolute())}
        slug = str(record["slug"])
        self.store.delete_record("competitions", slug)
        record |= {"created": self.store.current_time(), "id": self.store.next_serial("competition")}
        self.store.write_record(record, "competitions", slug)
        return slug

    def get_competition(self, slug: str) -> Record:
        """Return a competition; 404 if there is none."""
        record = self.store.read("competitions", slug)
        if record is None:
            raise ServiceRefusal(404, f"Competition '{slug}' not found")
        return record

    def named_competition(self, call: RpcCall) -> Record:
        """Return the competition that a call names; 404 if there is none."""
        return self.get_competition(call.text("competitionName"))

    def open_competition(self, call: RpcCall) -> Record:
        """Return the named competition if it takes submissions; refuses one that does not, with the reason."""
        record = self.named_competition(call)
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

    @rpc("competitions.CompetitionApiService/ListCompetitions")
    def _list_competitions(self, call: RpcCall) -> Mapping[str, Any]:
        def is_in_category(record: Record, word: str) -> bool:
            category = str(record.get("category", "")).upper().replace(" ", "_")
            return word.rpartition("_SEGMENT_")[2] == category

        def deadline(record: Record) -> float:
            return datetime.fromisoformat(record["deadline"]).timestamp()

        return wire.list_page(
            call,
            "competitions",
            self.store.iter_records("competitions"),
            lambda record: _describe_competition(call, record),
            filters={
                "group": _is_in_tab,
                "category": is_in_category,
                "search": lambda record, words: wire.matches_search(words, record["slug"], record["title"]),
            },
            orders={
                "_EARLIEST_DEADLINE": deadline,
                "_LATEST_DEADLINE": lambda record: -deadline(record),
                "_RECENTLY_CREATED": lambda record: -record["created"],
            },
        )

    @rpc("competitions.CompetitionApiService/GetCompetition")
    def _get_competition(self, call: RpcCall) -> Mapping[str, Any]:
        return _describe_competition(call, self.named_competition(call))

    @rpc("competitions.CompetitionApiService/ListDataFiles")
    def _list_data_files(self, call: RpcCall) -> Mapping[str, Any]:
        record = self.named_competition(call)
        public, created = Path(record["public"]), wire.format_time(record["created"])
        entries = (
            {"name": name, "totalBytes": (public / name).stat().st_size, "creationDate": created}
            for name in _list_names(public)
        )
        return wire.list_page(call, "files", entries)

    @rpc("competitions.CompetitionApiService/DownloadDataFile")
    def _download_file(self, call: RpcCall) -> HttpAnswer:
        # A large file comes as NAME.zip.
        record, name = self._joined_competition(call), call.text("fileName")
        public = Path(record["public"])
        if name not in set(_list_names(public)):
            raise ServiceRefusal(404, f"File '{name}' not found")
        beside = self.store.key_folder("competitions", record["slug"]) / "wrapped"
        return self.links.redirect(call, wrap_file(public, name, beside, self.settings.wrapped_from))

    @rpc("competitions.CompetitionApiService/DownloadDataFiles")
    def _download_all_files(self, call: RpcCall) -> HttpAnswer:
        record = self._joined_competition(call)
        final = self.store.key_folder("competitions", record["slug"]) / "all.zip"
        return self.links.redirect(call, pack_folder(Path(record["public"]), final), f"{record['slug']}.zip")

    def _joined_competition(self, call: RpcCall) -> Record:
        """Return a competition whose data the caller may fetch: 403 if nobody has accepted its rules."""
        record = self.named_competition(call)
        # Everybody may list the files.
        if not call.user or not record["entered"]:
            words = "You must accept this competition's rules before you can download its data"
            raise ServiceRefusal(403, words)
        return record


def _is_in_tab(record: Record, tab: str) -> bool:
    """Tell whether a competition stands in a tab of the list; none is hosted or unlaunched."""
    community = record.get("category") == "Community"
    tabs = {"GENERAL": not community, "COMMUNITY": community, "ENTERED": bool(record["entered"])}
    return tabs.get(tab.rpartition("_TAB_")[2], tab.endswith("_EVERYTHING"))


def _describe_competition(call: RpcCall, record: Record) -> dict[str, Any]:
    url = f"{call.base}/competitions/{record['slug']}"
    return {
        **{name: record[name] for name in ("id", "title", "deadline")},
        **dict.fromkeys(("ref", "url"), url),
        **dict.fromkeys(("reward", "organizationName"), "LOCAL"),
        **dict.fromkeys(("teamCount", "maxTeamSize"), 1),
        "category": record.get("category", "LOCAL"),
        "evaluationMetric": record["metric"],
        "enabledDate": wire.format_time(record["created"]),
        "userHasEntered": record["entered"],
        "maxDailySubmissions": record["daily"],
        "isKernelsSubmissionsOnly": record["code_only"],
        "submissionsDisabled": record["closed"],
    }


def _list_names(folder: Path) -> Iterator[str]:
    return (path.as_posix() for path in files.list_tree(folder))


def _check_metric(metric: str, folder: Path) -> list[str]:
    """Return what is wrong with a metric, before a submission is spent on it; nothing of its file is run."""
    if not metric:
        return ["`metric` is missing"]
    metric_path, colon, function = metric.partition(":")
    if not colon:
        if missing := _find_missing_packages(metric, ["sklearn"]):
            return missing
        known_metrics = dir(importlib.import_module("sklearn.metrics"))
        guess = suggest_name(metric, known_metrics)
        return [] if metric in known_metrics else [f"unknown metric '{metric}'{guess}"]
    try:
        # It is read, not run: whoever serves a competition has not agreed to its code yet.
        tree = ast.parse((folder / metric_path).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        return [f"the metric's file '{metric_path}' cannot be read: {error}"]
    names, open_ended = find_bound_names(tree.body)
    if function not in names and not open_ended:
        return [f"'{metric_path}' defines no '{function}'"]
    # Imports inside of a `try` are optional, and some modules lie beside the file.
    optional = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    packages: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in optional:
            packages |= dict.fromkeys(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and id(node) not in optional:
            packages[str(node.module).partition(".")[0]] = None
    foreign = (
        name for name in packages if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file()
    )
    return _find_missing_packages(metric, foreign)


def _find_missing_packages(metric: str, names: Iterable[str]) -> list[str]:
    """Return which packages a metric needs and this Python, in which it is computed, does not have."""
    problems = []
    for name in names:
        if importlib.util.find_spec(name) is None:
            command = f"'{sys.executable} -m pip install {(*find_distributions(name), name)[0]}'"
            needs = f"the metric '{metric}' needs {name}, which is not installed beside offline-kit"
            problems.append(f"{needs}: run {command}")
    return problems


def _read_competition(folder: Path) -> dict[str, Any]:
    path = folder / "competition.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"'{folder}' is no competition: {error}",
            code="competition-invalid",
            hint="write a competition.toml into it",
        ) from error
    metric, slug = str(settings.get("metric", "")), settings.get("slug") or make_slug(folder.name)
    hidden, public = folder / settings.get("hidden", "hidden"), folder / settings.get("public", "public")
    solution = folder / settings.get("solution", "solution.csv")
    category, deadline = settings.get("category", "LOCAL"), settings.get("deadline", _FAR)
    problems = [f"unknown key '{key}'" for key in sorted(set(settings) - _KEYS)]
    problems += _check_metric(metric, folder)
    try:
        moment = datetime.fromisoformat(str(deadline))  # a date of TOML, or a text of one
    except ValueError:
        problems.append(f"deadline '{deadline}' is no date")
        moment = _FAR
    if category not in _CATEGORIES:
        problems.append(f"unknown category '{category}'{suggest_name(category, _CATEGORIES)}")
    if not isinstance(settings.get("gateway", ""), str):
        problems += gateway_standin.find_option_problems(settings["gateway"])
    problems += [] if public.is_dir() else [f"no folder '{public}'"]
    problems += [f"no folder '{hidden}'"] if "hidden" in settings and not hidden.is_dir() else []
    problems += [] if solution.is_file() else [f"no file '{solution}'"]
    if problems:
        raise UsageError(
            f"'{path}' cannot be used", code="competition-invalid", hint="fix these", details=problems
        )
    return {
        "slug": slug,
        "title": settings.get("title") or str(slug).replace("-", " ").capitalize(),
        "public": str(public),
        "hidden": str(hidden) if hidden.is_dir() else "",
        "solution": str(solution),
        "folder": str(folder),
        "metric": metric,
        "options": settings.get("options", {}),
        "id_column": settings.get("id", ""),
        "submission": settings.get("submission", "submission.csv"),
        "code_only": settings.get("code_only", hidden.is_dir()),
        "deadline": wire.format_time((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()),
        "closed": bool(settings.get("closed", False)),
        "entered": bool(settings.get("entered", True)),
        "seconds": 3600.0 * settings.get("hours", 9),
        "category": category,
        "lower": bool(settings.get("lower_is_better", metric.endswith(_LESS_IS_BETTER))),
        **({"gateway": settings["gateway"]} if "gateway" in settings else {}),
        **({"daily": int(settings["daily"])} if "daily" in settings else {}),
    }
