"""Submissions: the notebook is run again on the hidden test, in its own sandbox, and what it writes is scored."""

import csv
import io
import json
import math
import re
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline_kit.core import files, processes
from offline_kit.core.errors import OfflineKitError
from offline_kit.local_kaggle import wire
from offline_kit.local_kaggle.blobs import UploadService
from offline_kit.local_kaggle.catalog import SERVICE, CompetitionCatalog
from offline_kit.local_kaggle.faults import FaultTable
from offline_kit.local_kaggle.kernel_runs import make_run_folder
from offline_kit.local_kaggle.notebook_service import NotebookService
from offline_kit.local_kaggle.packing import pack_folder
from offline_kit.local_kaggle.store import Record, RecordStore
from offline_kit.local_kaggle.wire import HttpAnswer, Rpc, RpcCall, ServiceRefusal
from offline_kit.project.kaggle_names import LOCAL_ONLY
from offline_kit.rehearsal.gateway_driver import TABLE_SUFFIX

_DAY = 86400
_METRIC_SECONDS = 600.0
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LOG_LINES = 15  # of a hidden run that failed
_LOCAL = "{:.5f} (LOCAL)"
"""How scores are written: nobody is to take them for Kaggle's."""


class SubmissionService:
    """The submissions of one local Kaggle."""

    def __init__(
        self,
        store: RecordStore,
        catalog: CompetitionCatalog,
        kernels: NotebookService,
        blobs: UploadService,
        faults: FaultTable,
    ) -> None:
        self.store = store
        self.catalog = catalog
        self.kernels = kernels
        self.blobs = blobs
        self.faults = faults
        self.links = catalog.links

    def list_rpcs(self) -> dict[str, Rpc]:
        """Return the calls about submissions."""
        calls: dict[str, Rpc] = {
            "CreateCodeSubmission": self.submit_code,
            "StartSubmissionUpload": self.start_upload,
            "CreateSubmission": self.submit_file,
            "GetSubmissionLimits": self.get_limits,
            "ListSubmissions": self.list_submissions,
            "GetSubmission": self.get_submission,
            "DownloadSubmission": self.download_submission,
            "GetLeaderboard": self.get_leaderboard,
            "DownloadLeaderboard": self.download_leaderboard,
        }
        return {SERVICE + name: call for name, call in calls.items()}

    def submit_code(self, call: RpcCall) -> Mapping[str, Any]:
        """Queue the hidden run of a finished notebook version."""
        competition = self.catalog.open_competition(call.text_field("competitionName"))
        number, name = (
            call.int_field("kernelVersion"),
            call.text_field("fileName") or competition["submission"],
        )
        found = self.kernels.find_version(
            call.text_field("kernelOwner"), call.text_field("kernelSlug"), number
        )
        if found is None or found[1]["owner"] != call.user:
            raise ServiceRefusal(404, "Notebook version not found")
        key, version = found
        if version["state"] != "COMPLETE":
            raise ServiceRefusal(400, "Submission not allowed: the notebook version has not run to its end")
        if version["enableInternet"]:
            raise ServiceRefusal(400, "Submission not allowed: internet access must be disabled")
        if not (self.kernels.runs.output_folder(key) / name).is_file():
            raise ServiceRefusal(400, f"Submission not allowed: the notebook's output has no file '{name}'")
        return self._queue_submission(call, competition, {"kernel": list(key), "fileName": name})

    def start_upload(self, call: RpcCall) -> Mapping[str, Any]:
        """Open the upload of a submission file."""
        self.catalog.open_competition(call.text_field("competitionName"))
        return self.blobs.open_session(
            call, Path(call.text_field("fileName") or "submission.csv").name, "SUBMISSION"
        )

    def submit_file(self, call: RpcCall) -> Mapping[str, Any]:
        """Queue the scoring of an uploaded file; a code competition takes none."""
        competition = self.catalog.open_competition(call.text_field("competitionName"))
        if competition["code_only"]:
            raise ServiceRefusal(400, "This competition only accepts submissions from notebooks")
        token = call.text_field("blobFileTokens")
        name, data = self.blobs.finished_upload(token, call.user)
        return self._queue_submission(call, competition, {"token": token, "fileName": name}, data)

    def _queue_submission(
        self, call: RpcCall, competition: Record, facts: Mapping[str, Any], sent: Path | None = None
    ) -> dict[str, Any]:
        with self.store.lock:
            if not self._submissions_left(call.user, competition):
                text = "your team has used its daily Submission allowance"
                raise ServiceRefusal(400, f"Submission not allowed: {text} ({competition['daily']}) today")
            ref = self.store.next_serial("submission")
            record = {
                "ref": ref,
                "competition": competition["slug"],
                "user": call.user,
                "created": self.store.current_time(),
                "description": call.text_field("submissionDescription"),
                "state": "PENDING",
                **facts,
            }
            if sent:
                files.link_or_copy(sent, self._uploaded_file(record))
            self.store.write_record(record, "submissions", str(ref))
        self._start_scoring(record)
        return {"message": f"Successfully submitted to {competition['title']}", "ref": ref}

    def get_limits(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell how many submissions are left today."""
        competition = self.catalog.get_competition(call.text_field("competitionName"))
        own_records = self._submissions_of(call.user, competition["slug"])
        return {
            "numToday": len(self._made_today(own_records)),
            "numTotal": len(own_records),
            "numAllowedNow": self._submissions_left(call.user, competition),
            "limitedByTotal": False,
        }

    def list_submissions(self, call: RpcCall) -> Mapping[str, Any]:
        """List one's submissions to a competition, the latest first."""
        competition = self.catalog.get_competition(call.text_field("competitionName"))
        own_records = [
            record
            for record in self._submissions_of(call.user, competition["slug"])
            if self._is_visible(record)
        ]
        page, following = _LISTING.page_of_things(reversed(own_records), call.body)
        return {"submissions": [_describe_submission(record) for record in page], "nextPageToken": following}

    def get_submission(self, call: RpcCall) -> Mapping[str, Any]:
        """Tell about one submission; 404 just after it was made."""
        record = self.store.read("submissions", str(call.int_field("ref")))
        if record is None or record["user"] != call.user or not self._is_visible(record):
            raise ServiceRefusal(404, "Submission not found")
        return _describe_submission(record)

    def download_submission(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of a file that was uploaded as a submission; what a hidden run wrote is nobody's."""
        record = self.store.read("submissions", str(call.int_field("submissionId")))
        if record is None or record["user"] != call.user:
            raise ServiceRefusal(404, "Submission not found")
        path = self._uploaded_file(record)
        if not path.is_file():
            raise ServiceRefusal(
                403, "The file of this submission cannot be downloaded: a notebook has written it"
            )
        return wire.redirect_answer(self.links.create_link(call.base, path, path.name))

    def get_leaderboard(self, call: RpcCall) -> Mapping[str, Any]:
        """List the best public score of everybody, the best first."""
        rows = self._rank_teams(self.catalog.get_competition(call.text_field("competitionName")))
        page, following = wire.slice_page([_leaderboard_row(best) for best, _ in rows], call.body)
        return {"submissions": page, "nextPageToken": following}

    def download_leaderboard(self, call: RpcCall) -> HttpAnswer:
        """Send to the link of a zip with the whole leaderboard as a table."""
        competition = self.catalog.get_competition(call.text_field("competitionName"))
        slug, table = competition["slug"], io.StringIO()
        writer = csv.writer(table)
        writer.writerow(_COLUMNS)
        for rank, (best, count) in enumerate(self._rank_teams(competition), 1):
            row = _leaderboard_row(best)
            values = (row["teamId"], row["teamName"], row["submissionDate"], row["score"])
            writer.writerow((rank, *values, count, best["user"]))
        folder = self.store.key_folder("competitions", slug) / "leaderboard"
        final = folder / f"{slug}.zip"
        with self.store.lock:
            name = f"{slug}-publicleaderboard.csv"
            files.write_atomic(folder / name, table.getvalue())
            final.unlink(missing_ok=True)
            pack_folder(folder, final, (Path(name),))
        return wire.redirect_answer(self.links.create_link(call.base, final, final.name))

    def _rank_teams(self, competition: Record) -> list[tuple[Record, int]]:
        """Return everybody's best submission and the number of theirs, the best first."""
        lower = competition.get("lower", False)
        teams: dict[str, list[Record]] = {}
        for record in self.store.iter_records("submissions"):
            if record["competition"] == competition["slug"] and _score_of(record, "public"):
                teams.setdefault(record["user"], []).append(record)

        def rank(record: Record) -> tuple[float, float]:
            return (record["public"] if lower else -record["public"]), record["created"]

        teams_ranked = [(min(records, key=rank), len(records)) for records in teams.values()]
        return sorted(teams_ranked, key=lambda pair: rank(pair[0]))

    def resume_scoring(self) -> None:
        """Score anew what was being scored when the server ended."""
        for record in self.store.iter_records("submissions"):
            if record["state"] == "PENDING":
                self._start_scoring(record)

    def _start_scoring(self, record: Record) -> None:
        threading.Thread(target=self._score_record, args=(record,), daemon=True).start()

    def _score_record(self, record: Record) -> None:
        fault = self.faults.match_call("SCORE")
        time.sleep(fault.delay)
        if fault.stuck:
            return
        place = self.store.key_folder("submissions", str(record["ref"]))
        folder = make_run_folder(place)
        try:
            competition = self.catalog.get_competition(record["competition"])
            outcome = {"state": fault.ends or "ERROR", "error": fault.fail}
            facts = outcome if fault.ends or fault.fail else self._score_files(record, competition, folder)
        except Exception as error:  # noqa: BLE001 - a submission must end in a state
            facts = {"state": "ERROR", "error": f"Kaggle Error: {error}"}
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(self.catalog.settings.scoring)
        self.store.write_record({**record, **facts}, "submissions", str(record["ref"]))

    def _score_files(self, record: Record, competition: Record, folder: Path) -> dict[str, Any]:
        began, log = self.store.current_time(), list[str]()
        if record.get("token"):
            folder.mkdir(parents=True, exist_ok=True)
            written = Path(shutil.copyfile(self._uploaded_file(record), folder / record["fileName"]))
        else:
            key, mount = tuple(record["kernel"]), f"competitions/{competition['slug']}"
            covered = {mount: self.catalog.hidden_entries(competition)}
            limit = competition["seconds"]
            result = self.kernels.runs.execute_version(
                key, folder, covered=covered, timeout=limit, say=log.append
            )
            if result.failure:
                late = "exceeded the max allowed" in result.failure
                error = "Notebook Timeout" if late else "Notebook Threw Exception"
                return {"state": "ERROR", "error": error + _for_us(result.failure, *log)}
            written = folder / "output" / record["fileName"]
            as_csv = written.with_name(written.name + TABLE_SUFFIX)
            if as_csv.is_file() and competition["solution"].endswith(".csv"):
                written = as_csv  # of a gateway's parquet file, as the metric reads tables
        if not written.is_file():
            other_names = sorted(path.name for path in written.parent.glob("*"))
            written_words = f"written instead: {', '.join(other_names[:10]) or 'nothing'}"
            return {"state": "ERROR", "error": "Submission CSV Not Found" + _for_us(written_words, *log)}
        scores = _run_judge(competition, written, folder)
        if scores.get("metric"):
            text = f"Kaggle Error: the competition's metric failed, not the submission: {scores['error']}"
            return {"state": "ERROR", "error": text}
        if "error" in scores:
            return {"state": "ERROR", "error": f"Submission Scoring Error: {scores['error']}"}
        size = written.stat().st_size
        return {"state": "COMPLETE", "size": size, "seconds": self.store.current_time() - began, **scores}

    def _uploaded_file(self, record: Record) -> Path:
        """Return where the file of a submission lies that was uploaded; links to uploads are never written."""
        return self.store.key_folder("submissions", str(record["ref"])) / "sent" / str(record["fileName"])

    def _submissions_of(self, user: str, slug: str) -> list[Record]:
        records = self.store.iter_records("submissions")
        return [record for record in records if (record["user"], record["competition"]) == (user, slug)]

    def _made_today(self, records: list[Record]) -> list[Record]:
        day = self.store.current_time() // _DAY
        return [record for record in records if record["created"] // _DAY == day]

    def _submissions_left(self, user: str, competition: Record) -> int:
        if not user:
            raise ServiceRefusal(403, "Permission 'competitions.participate' was denied")
        used = len(self._made_today(self._submissions_of(user, competition["slug"])))
        return max(0, int(competition["daily"]) - used)

    def _is_visible(self, record: Record) -> bool:
        return bool(self.store.current_time() - record["created"] >= self.catalog.settings.visible_after)


def _run_judge(competition: Record, written: Path, folder: Path) -> dict[str, Any]:
    """Let the judge score a file, in a process of its own."""
    request = {
        "submission": str(written),
        "solution": competition["solution"],
        "metric": competition["metric"],
        "options": competition["options"],
        "id": competition["id_column"],
        "folder": competition["folder"],
    }
    request_path = folder / "request.json"
    files.write_atomic(request_path, json.dumps(request))
    try:
        words = [sys.executable, "-P", "-m", "offline_kit.local_kaggle.judge", str(request_path)]
        processes.run_command(words, cwd=Path(competition["folder"]), timeout=_METRIC_SECONDS, check=False)
        answer: dict[str, Any] = json.loads(request_path.with_name("request.json.answer").read_text("utf-8"))
    except (OfflineKitError, OSError, ValueError):
        return {
            "error": f"it did not end within {_METRIC_SECONDS:.0f} s, or took Python down",
            "metric": True,
        }
    return answer


def _for_us(failure: str, *log: str) -> str:
    """Return what a hidden run said, marked as what only a local Kaggle shows."""
    lines = [line for line in _ANSI.sub("", "".join(log)).splitlines() if line.strip()]
    tail = lines[-_LOG_LINES:]
    return LOCAL_ONLY + "\n".join([*([failure] if failure not in tail else []), *tail])


_LISTING = wire.ListingRules[Record](
    filters={
        "group": lambda record, word: record["state"] == "COMPLETE" or not word.endswith("_SUCCESSFUL"),
    },
    orders={
        "_NAME": lambda record: record["fileName"],
        "_PUBLIC_SCORE": lambda record: -record["public"] if _score_of(record, "public") else math.inf,
        "_PRIVATE_SCORE": lambda record: -record["private"] if _score_of(record, "private") else math.inf,
    },
)
_COLUMNS = (
    *("Rank", "TeamId", "TeamName", "LastSubmissionDate", "Score", "SubmissionCount"),
    "TeamMemberUserNames",
)


def _score_of(record: Record, side: str) -> bool:
    return isinstance(record.get(side), float) and not math.isnan(record[side])


def _leaderboard_row(record: Record) -> dict[str, Any]:
    """Return a submission as a row of the leaderboard; a team is one account, its number that of the account's name."""
    return {
        "teamId": zlib.crc32(record["user"].encode()),
        "teamName": record["user"],
        "submissionDate": wire.format_time(record["created"]),
        "score": _LOCAL.format(record["public"]),
    }


def _describe_submission(record: Record) -> dict[str, Any]:
    scores = {
        f"{side}Score": _LOCAL.format(record[side])
        for side in ("public", "private")
        if _score_of(record, side)
    }
    return {
        "ref": record["ref"],
        "totalBytes": record.get("size", 0),
        "date": wire.format_time(record["created"]),
        "description": record["description"],
        "errorDescription": record.get("error", ""),
        "fileName": record["fileName"],
        "status": record["state"],
        "submittedBy": record["user"],
        "submittedByRef": record["user"],
        "teamName": "LOCAL",
        "url": f"{wire.HERE}/submissions/{record['ref']}",
        **scores,
    }
