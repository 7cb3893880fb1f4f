"""Competitions made from folders, and their data.

docs/guide/local-kaggle.md describes the keys of a folder's `competition.toml`. A minimal one is

    metric = "f1_score"               # of scikit-learn, called as (truth, prediction); or "file.py:function",
                                      # called as (submission, solution), two paths of tables with the same ids
"""

import ast
import importlib
import importlib.util
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offline_kit.core import files
from offline_kit.core.errors import OfflineKitError, UsageError, suggest_name
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.store import Record, Service, pack_folder, wrap_file
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc
from offline_kit.project import references
from offline_kit.project.import_names import find_distributions
from offline_kit.project.kaggle_names import make_slug
from offline_kit.rehearsal import gateway_standin

_DEFAULTS: Mapping[str, Any] = {
    "metric": "", "options": {}, "slug": "", "title": "", "public": "public", "hidden": "hidden",
    "solution": "solution.csv", "id": "", "submission": "submission.csv", "daily": 5, "gateway": None,
    "deadline": "2099-01-01", "closed": False, "entered": True, "hours": 9, "category": "LOCAL",
    "code_only": None, "lower_is_better": None,  # decided by the other keys
}  # fmt: skip
_CATEGORIES = (
    *("Featured", "Research", "Recruitment", "Getting Started", "Masters", "Playground", "Community"),
    *("Analytics", "LOCAL"),
)
# How scikit-learn ends the names of metrics of which less is better.
_LESS_IS_BETTER = ("_error", "_loss", "_deviance")


class CompetitionCatalog(Service):
    """The competitions of one local Kaggle; each knows its folder, which stays where it is."""

    def add_competition(self, folder: Path) -> str:
        """Take in a competition and return its slug; UsageError names what is wrong with the folder."""
        record = _read_competition(folder.absolute())
        slug = str(record["slug"])
        self.store.delete_record("competitions", slug)
        record |= {"created": time.time(), "id": self.store.next_serial("competition")}
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
        if time.time() > _read_deadline(record):
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
        def is_in_tab(record: Record, word: str) -> bool:
            own_tabs = ("_EVERYTHING", "_COMMUNITY" if record["category"] == "Community" else "_GENERAL")
            return word.endswith((*own_tabs, "_ENTERED") if record["entered"] else own_tabs)

        return wire.list_page(
            call,
            "competitions",
            self.store.iter_records("competitions"),
            lambda record: _describe_competition(call, record),
            filters={
                "group": is_in_tab,
                "category": lambda record, word: word.endswith(record["category"].upper().replace(" ", "_")),
                "search": wire.matches_search,
            },
            orders={
                "_EARLIEST_DEADLINE": _read_deadline,
                "_LATEST_DEADLINE": lambda record: -_read_deadline(record),
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
        record, name = self._joined_competition(call), call.text("fileName")
        public = Path(record["public"])
        if name not in set(_list_names(public)):
            raise ServiceRefusal(404, f"File '{name}' not found")
        beside = self.store.key_folder("competitions", record["slug"]) / "wrapped"
        return self.links.redirect(call, wrap_file(public, name, beside))

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


def _read_deadline(record: Record) -> float:
    return datetime.fromisoformat(record["deadline"]).timestamp()


def _describe_competition(call: RpcCall, record: Record) -> dict[str, Any]:
    url = f"{call.base}/competitions/{record['slug']}"
    return {
        **{name: record[name] for name in ("id", "title", "deadline", "category")},
        **dict.fromkeys(("ref", "url"), url),
        **dict.fromkeys(("reward", "organizationName"), "LOCAL"),
        **dict.fromkeys(("teamCount", "maxTeamSize"), 1),
        "evaluationMetric": record["metric"],
        "enabledDate": wire.format_time(record["created"]),
        "userHasEntered": record["entered"],
        "maxDailySubmissions": record["daily"],
        "isKernelsSubmissionsOnly": record["code_only"],
        "submissionsDisabled": record["closed"],
    }


def _list_names(folder: Path) -> Iterator[str]:
    return (path.as_posix() for path in files.list_tree(folder))


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
    rules = {**_DEFAULTS, **settings}
    metric, slug = str(rules["metric"]), str(rules["slug"] or make_slug(folder.name))
    public, hidden, solution = (folder / rules[name] for name in ("public", "hidden", "solution"))
    problems = [f"unknown key '{key}'" for key in sorted(set(settings) - set(_DEFAULTS))]
    problems += _check_metric(metric, folder)
    deadline = 0.0
    try:
        moment = datetime.fromisoformat(str(rules["deadline"]))  # a date of TOML, or a text of one
        deadline = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        problems.append(f"deadline '{rules['deadline']}' is no date")
    if rules["category"] not in _CATEGORIES:
        guess = suggest_name(rules["category"], _CATEGORIES)
        problems.append(f"unknown category '{rules['category']}'{guess}")
    if not isinstance(rules["gateway"], str | None):
        problems += gateway_standin.find_option_problems(rules["gateway"])
    problems += [] if public.is_dir() else [f"no folder '{public}'"]
    problems += [f"no folder '{hidden}'"] if "hidden" in settings and not hidden.is_dir() else []
    problems += [] if solution.is_file() else [f"no file '{solution}'"]
    if problems:
        raise UsageError(
            f"'{path}' cannot be used", code="competition-invalid", hint="fix these", details=problems
        )
    is_lower, is_code = rules["lower_is_better"], rules["code_only"]
    return {
        **{name: rules[name] for name in ("options", "submission", "daily", "category", "gateway")},
        **{name: bool(rules[name]) for name in ("closed", "entered")},
        "slug": slug,
        "title": rules["title"] or slug.replace("-", " ").capitalize(),
        "public": str(public),
        "hidden": str(hidden) if hidden.is_dir() else "",
        "solution": str(solution),
        "folder": str(folder),
        "metric": metric,
        "id_column": rules["id"],
        "code_only": hidden.is_dir() if is_code is None else is_code,
        "deadline": wire.format_time(deadline),
        "seconds": 3600.0 * rules["hours"],
        "lower": metric.endswith(_LESS_IS_BETTER) if is_lower is None else bool(is_lower),
    }


def _check_metric(metric: str, folder: Path) -> list[str]:
    """Return what is wrong with a metric, before a submission is spent on it; nothing of its file is run."""
    if not metric:
        return ["`metric` is missing"]
    if ":" not in metric:
        if missing := _find_missing_packages(metric, ["sklearn"]):
            return missing
        known_metrics = dir(importlib.import_module("sklearn.metrics"))
        guess = suggest_name(metric, known_metrics)
        return [] if metric in known_metrics else [f"unknown metric '{metric}'{guess}"]
    # It is read, not run: whoever serves a competition has not agreed to its code yet.
    try:
        metric_file = references.resolve_references(folder, [metric], [])[metric]
    except OfflineKitError as error:
        return [error.what]
    tree = references.parse_module(metric_file) if metric_file else None
    if tree is None:
        return [f"the metric's file of '{metric}' cannot be read"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):  # what is imported there is optional
            node.body, node.handlers = [], []
    imported = references.map_imported_names(tree).values()
    packages = dict.fromkeys(full_name.partition(".")[0] for full_name in imported)
    beside = {path.stem for path in folder.iterdir()}
    return _find_missing_packages(metric, (name for name in packages if name not in beside))


def _find_missing_packages(metric: str, names: Iterable[str]) -> list[str]:
    """Return which packages a metric needs and this Python, in which it is computed, does not have."""
    problems = []
    for name in names:
        if importlib.util.find_spec(name) is None:
            command = f"'{sys.executable} -m pip install {(*find_distributions(name), name)[0]}'"
            needs = f"the metric '{metric}' needs {name}, which is not installed beside offline-kit"
            problems.append(f"{needs}: run {command}")
    return problems
