"""Submissions: the notebook is run again on the hidden test, in its own sandbox, and what it writes is scored."""

import csv
import io
import json
import math
import re
import secrets
import shutil
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.catalog import CompetitionCatalog
from offline_kit.local_kaggle.kernel_runs import make_run_folder
from offline_kit.local_kaggle.notebook_service import NotebookService
from offline_kit.local_kaggle.store import Record, Service
from offline_kit.local_kaggle.wire import HttpAnswer, RpcCall, ServiceRefusal, rpc
from offline_kit.project.kaggle_names import LOCAL_ONLY
from offline_kit.rehearsal.gateway_driver import TABLE_SUFFIX

_DAY = 86400
_METRIC_SECONDS = 600.0
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LOG_LINES = 15  # of a hidden run that failed
# How scores are written: nobody is to take them for Kaggle's.
_LOCAL = "{:.5f} (LOCAL)"
_LEADERBOARD_COLUMNS = (
    *("Rank", "TeamId", "TeamName", "LastSubmissionDate", "Score", "SubmissionCount"),
    "TeamMemberUserNames",
)


class SubmissionService(Service):
    """The submissions of one local Kaggle."""

    def __init__(
        self, catalog: CompetitionCatalog, *, kernels: NotebookService, blobs: UploadService
    ) -> None:
        super().__init__(catalog.store)
        self.catalog = catalog
        self.kernels = kernels
        self.blobs = blobs

    @rpc("competitions.CompetitionApiService/CreateCodeSubmission")
    def _submit_code(self, call: RpcCall) -> Mapping[str, Any]:
        # What Kaggle demands before it queues the hidden run of a version.
        competition = self.catalog.open_competition(call)
        name = call.text("fileName") or competition["submission"]
        version = self.kernels.find_version(
            call.text("kernelOwner"), call.text("kernelSlug"), call.integer("kernelVersion")
        )
        if version is None or version["owner"] != call.user:
            raise ServiceRefusal(404, "Notebook version not found")
        if version["state"] != "COMPLETE":
            raise ServiceRefusal(400, "Submission not allowed: the notebook version has not run to its end")
        # Code competitions are scored without internet, so a version that has it is not accepted.
        if version["enableInternet"]:
            raise ServiceRefusal(400, "Submission not allowed: internet access must be disabled")
        if not (self.kernels.runs.output_folder(version) / name).is_file():
            raise ServiceRefusal(400, f"Submission not allowed: the notebook's output has no file '{name}'")
        return self._queue_submission(call, competition, {"kernel": list(version.key), "fileName": name})

    @rpc("competitions.CompetitionApiService/StartSubmissionUpload")
    def _start_upload(self, call: RpcCall) -> Mapping[str, Any]:
        self.catalog.open_competition(call)
        name = Path(call.text("fileName") or "submission.csv").name
        return self.blobs.open_session(call, name)

    @rpc("competitions.CompetitionApiService/CreateSubmission")
    def _submit_file(self, call: RpcCall) -> Mapping[str, Any]:
        competition = self.catalog.open_competition(call)
        if competition["code_only"]:
            raise ServiceRefusal(400, "This competition only accepts submissions from notebooks")
        token = call.text("blobFileTokens")
        name, data = self.blobs.finished_upload(token, call.user)
        return self._queue_submission(call, competition, {"token": token, "fileName": name}, data)

    def _queue_submission(
        self, call: RpcCall, competition: Record, subject: Mapping[str, Any], sent: Path | None = None
    ) -> dict[str, Any]:
        with self.store.lock:
            if not self._count_limits(call, competition)["numAllowedNow"]:
                text = "your team has used its daily Submission allowance"
                raise ServiceRefusal(400, f"Submission not allowed: {text} ({competition['daily']}) today")
            ref = self.store.next_serial("submission")
            facts = {
                "ref": ref,
                "competition": competition["slug"],
                "user": call.user,
                "created": time.time(),
                "description": call.text("submissionDescription"),
                "state": "PENDING",
                **subject,
            }
            record = self.store.write_record(facts, "submissions", str(ref))
            if sent:
                files.link_or_copy(sent, self._sent_file(record))
        threading.Thread(target=self._score_record, args=(record,), daemon=True).start()
        return {"message": f"Successfully submitted to {competition['title']}", "ref": ref}

    @rpc("competitions.CompetitionApiService/GetSubmissionLimits")
    def _get_limits(self, call: RpcCall) -> Mapping[str, Any]:
        return self._count_limits(call, self.catalog.named_competition(call))

    def _count_limits(self, call: RpcCall, competition: Record) -> Mapping[str, Any]:
        """Return how many submissions the caller has made, and how many are left today (UTC)."""
        if not call.user:
            raise ServiceRefusal(403, "Permission 'competitions.participate' was denied")
        own_records = self._submissions_of(call.user, competition)
        day = time.time() // _DAY
        today = sum(record["created"] // _DAY == day for record in own_records)
        left = max(0, int(competition["daily"]) - today)
        counts = {"numToday": today, "numTotal": len(own_records), "numAllowedNow": left}
        return {**counts, "limitedByTotal": False}

    @rpc("competitions.CompetitionApiService/ListSubmissions")
    def _list_submissions(self, call: RpcCall) -> Mapping[str, Any]:
        own_records = self._submissions_of(call.user, self.catalog.named_competition(call))
        return wire.list_page(
            call,
            "submissions",
            (record for record in reversed(own_records) if self.is_visible(record)),
            lambda record: _describe_submission(call, record),
        )

    @rpc("competitions.CompetitionApiService/GetSubmission")
    def _get_submission(self, call: RpcCall) -> Mapping[str, Any]:
        # 404 just after it was made, as on Kaggle: the client has to wait for it.
        record = self._own_submission(call, "ref")
        if not self.is_visible(record):
            raise ServiceRefusal(404, "Submission not found")
        return _describe_submission(call, record)

    @rpc("competitions.CompetitionApiService/DownloadSubmission")
    def _download_submission(self, call: RpcCall) -> HttpAnswer:
        # Only what was uploaded: the file that a hidden run wrote would show the hidden test set.
        path = self._sent_file(self._own_submission(call, "submissionId"))
        if not path.is_file():
            words = "The file of this submission cannot be downloaded: a notebook has written it"
            raise ServiceRefusal(403, words)
        return self.links.redirect(call, path)

    @rpc("competitions.CompetitionApiService/GetLeaderboard")
    def _get_leaderboard(self, call: RpcCall) -> Mapping[str, Any]:
        rows = self._rank_teams(self.catalog.named_competition(call))
        return wire.list_page(call, "submissions", rows, lambda row: row[0])

    @rpc("competitions.CompetitionApiService/DownloadLeaderboard")
    def _download_leaderboard(self, call: RpcCall) -> HttpAnswer:
        competition = self.catalog.named_competition(call)
        slug, table = competition["slug"], io.StringIO()
        writer = csv.writer(table)
        writer.writerow(_LEADERBOARD_COLUMNS)
        for rank, (row, count) in enumerate(self._rank_teams(competition), 1):
            writer.writerow((rank, *row.values(), count, row["teamName"]))
        final = self.store.key_folder("competitions", slug) / f"leaderboard-{secrets.token_hex(4)}.zip"
        with zipfile.ZipFile(final, "w") as zipped:
            zipped.writestr(f"{slug}-publicleaderboard.csv", table.getvalue())
        return self.links.redirect(call, final, f"{slug}.zip")

    def _rank_teams(self, competition: Record) -> list[tuple[dict[str, Any], int]]:
        """Return the row of everybody's best submission and the number of theirs, the best first.

        A team is one account.
        """
        sign = 1 if competition.get("lower") else -1  # the best is the smallest by this sign
        teams: dict[str, list[Record]] = {}
        for record in self.store.iter_records("submissions"):
            if record["competition"] == competition["slug"] and _has_score(record, "public"):
                teams.setdefault(record["user"], []).append(record)

        def rank(record: Record) -> tuple[float, float]:
            return sign * record["public"], record["created"]

        rows = []
        for best in sorted((min(records, key=rank) for records in teams.values()), key=rank):
            row = {
                "teamId": zlib.crc32(best["user"].encode()),
                "teamName": best["user"],
                "submissionDate": wire.format_time(best["created"]),
                "score": _LOCAL.format(best["public"]),
            }
            rows.append((row, len(teams[best["user"]])))
        return rows

    def resume_scoring(self) -> None:
        """Score anew what was being scored when the server ended."""
        for record in self.store.iter_records("submissions"):
            if record["state"] == "PENDING":
                threading.Thread(target=self._score_record, args=(record,), daemon=True).start()

    def _score_record(self, record: Record) -> None:
        # Kaggle answers a submission at once and scores it for hours.
        fault = self.kernels.runs.faults.match_call("SCORE")
        time.sleep(fault.delay)
        if fault.stuck:
            return
        folder = make_run_folder(self.store.key_folder(*record.key))
        try:
            if fault.ends or fault.fail:
                facts: dict[str, Any] = {"state": fault.ends or "ERROR", "error": fault.fail}
            else:
                facts = self._score_files(record, self.catalog.get_competition(record["competition"]), folder)
        except _SubmissionError as error:
            facts = {"state": "ERROR", "error": str(error)}
        except Exception as error:  # noqa: BLE001 - a submission must end in a state
            facts = {"state": "ERROR", "error": f"Kaggle Error: {error}"}
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(self.settings.scoring)
        self.store.change_record(record, **facts)

    def _score_files(self, record: Record, competition: Record, folder: Path) -> dict[str, Any]:
        began = time.time()
        log: list[str] = []
        if record.get("token"):
            folder.mkdir(parents=True, exist_ok=True)
            written = Path(shutil.copyfile(self._sent_file(record), folder / record["fileName"]))
        else:
            written = self._run_hidden(record, competition, folder, log)
        if not written.is_file():
            other_names = sorted(path.name for path in written.parent.glob("*"))
            words = f"written instead: {', '.join(other_names[:10]) or 'nothing'}"
            raise _SubmissionError("Submission CSV Not Found" + _mark_local(words, log))
        scores = _run_judge(competition, written, folder)
        if scores.get("metric"):
            words = "Kaggle Error: the competition's metric failed, not the submission"
            raise _SubmissionError(f"{words}: {scores['error']}")
        if "error" in scores:
            raise _SubmissionError(f"Submission Scoring Error: {scores['error']}")
        seconds = time.time() - began
        return {"state": "COMPLETE", "size": written.stat().st_size, "seconds": seconds, **scores}

    def _run_hidden(self, record: Record, competition: Record, folder: Path, log: list[str]) -> Path:
        """Run a notebook version on the hidden test; return where its submission should be."""
        # Kaggle mounts the hidden test set in place of the public data, and gives no log of that run.
        covered = {f"competitions/{competition['slug']}": self.catalog.hidden_entries(competition)}
        version = self.store.read(*record["kernel"])
        if version is None:
            raise _SubmissionError("Kaggle Error: the notebook was deleted")
        failure = self.kernels.runs.execute_version(
            version, folder, covered=covered, timeout=competition["seconds"], say=log.append
        )
        if failure:
            late = "exceeded the max allowed" in failure  # as the sandbox runner describes it
            error = "Notebook Timeout" if late else "Notebook Threw Exception"
            raise _SubmissionError(error + _mark_local(failure, log))
        written = folder / "output" / str(record["fileName"])
        as_csv = written.with_name(written.name + TABLE_SUFFIX)
        # A gateway's parquet file is scored as the CSV beside it: the metric reads tables.
        return as_csv if as_csv.is_file() and competition["solution"].endswith(".csv") else written

    def _sent_file(self, record: Record) -> Path:
        """Return where the file of a submission is that was uploaded; links to uploads are never written."""
        return self.store.key_folder(*record.key) / "sent" / str(record["fileName"])

    def _own_submission(self, call: RpcCall, name: str) -> Record:
        record = self.store.read("submissions", str(call.integer(name)))
        if record is None or record["user"] != call.user:
            raise ServiceRefusal(404, "Submission not found")
        return record

    def _submissions_of(self, user: str, competition: Record) -> list[Record]:
        own = (user, competition["slug"])
        records = self.store.iter_records("submissions")
        return [record for record in records if (record["user"], record["competition"]) == own]


class _SubmissionError(Exception):
    """A submission ends as an error; the text is what its author is shown."""


def _run_judge(competition: Record, written: Path, folder: Path) -> dict[str, Any]:
    # In a process of its own: the metric is somebody's code.
    copied = ("solution", "metric", "options", "folder")
    request = {"submission": str(written), "id": competition["id_column"]}
    request |= {name: competition[name] for name in copied}
    request_path = folder / "request.json"
    files.write_atomic(request_path, json.dumps(request))
    try:
        words = [sys.executable, "-P", "-m", "offline_kit.local_kaggle.judge", str(request_path)]
        processes.run_command(words, cwd=Path(competition["folder"]), timeout=_METRIC_SECONDS, check=False)
        answer: dict[str, Any] = json.loads(request_path.with_name("request.json.answer").read_text("utf-8"))
    except (OfflineKitError, OSError, ValueError):
        return {"error": f"it took over {_METRIC_SECONDS:.0f} s, or took Python down", "metric": True}
    return answer


def _mark_local(failure: str, log: list[str]) -> str:
    """Return what a hidden run said, marked as what only a local Kaggle shows."""
    lines = [line for line in _ANSI.sub("", "".join(log)).splitlines() if line.strip()]
    tail = lines[-_LOG_LINES:]
    return LOCAL_ONLY + "\n".join([*([failure] if failure not in tail else []), *tail])


def _has_score(record: Record, side: str) -> bool:
    return isinstance(record.get(side), float) and not math.isnan(record[side])


def _describe_submission(call: RpcCall, record: Record) -> dict[str, Any]:
    sides = [side for side in ("public", "private") if _has_score(record, side)]
    return {
        **{name: record[name] for name in ("ref", "description", "fileName")},
        "totalBytes": record.get("size", 0),
        "date": wire.format_time(record["created"]),
        "errorDescription": record.get("error", ""),
        "status": record["state"],
        "submittedBy": record["user"],
        "submittedByRef": record["user"],
        "teamName": "LOCAL",
        "url": f"{call.base}/submissions/{record['ref']}",
        **{f"{side}Score": _LOCAL.format(record[side]) for side in sides},
    }
