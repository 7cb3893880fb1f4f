"""Looking at a dataset until what was sent is really there, or certainly is not."""

import tempfile
import time
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.report import SILENT, Reporter, Say
from offline_kit.core.retry import PassingError
from offline_kit.kaggle.client.api_types import Kaggle, RefusedError, RemoteDataset, RemoteFile
from offline_kit.kaggle.push.dataset_plan import Action, Remote, damage, differences, not_whole
from offline_kit.kaggle.push.journal import Effect
from offline_kit.kaggle.push.poll_policy import WAITING, Waiting, cause, poll, shown, tolerant
from offline_kit.kit import manifest
from offline_kit.project.kaggle_names import MARKER
from offline_kit.project.types import Part

BAD = frozenset({"failed", "deleted"})
ENDED = BAD | {"ready"}
"""States that do not change by themselves."""
_MAX_MARKER = 64 << 20


def look(
    kaggle: Kaggle,
    ref: str,
    waiting: Waiting = WAITING,
    report: Reporter = SILENT,
    *,
    expected: bool = False,
) -> Remote:
    """Return a dataset as it is; what is still being processed is waited for first.

    A listing that lags behind is waited for where a new version is `expected`. Raises OutsideError where any
    of it takes longer than it may.
    """
    if kaggle.dataset(ref) is None:
        return Remote(ref=ref)
    with _Line(kaggle, ref, report) as line:

        def ended() -> str:
            state = kaggle.status(ref)
            if state not in ENDED:
                line.tell(state or "hidden")
                raise PassingError(f"it is still in the state '{state or 'hidden'}'")
            return state

        patience = waiting.until(waiting.processing)
        state = poll(tolerant(ended, line.tell), patience, lambda e: _never_ready(ref, str(e)))
        found = kaggle.dataset(ref)
        if found is None:
            return Remote(ref=ref)
        until = time.monotonic() + waiting.grace if expected else 0.0

        def held() -> Remote:
            there = _seen(kaggle, found, state)
            if there.part and damage(there.part, there) and time.monotonic() < until:
                line.tell("its files do not all show yet")
                raise PassingError("its files do not all show yet")
            return there

        return poll(tolerant(held, line.tell), waiting.until(2 * waiting.grace), cause)


def _seen(kaggle: Kaggle, found: RemoteDataset, state: str) -> Remote:
    """Return a dataset that has come to a state, with its files and what its marker says."""
    there = Remote(ref=found.ref, version=found.version, state=state, private=found.private, url=found.url)
    if state != "ready":
        return there
    there = replace(there, files=kaggle.files(found.ref, found.version))
    if not any(each.name == MARKER for each in there.files):
        return there
    part = marker(kaggle, found.ref)
    return replace(there, part=part, files=_all(kaggle, part, there) if part else there.files)


def _all(kaggle: Kaggle, part: Part, there: Remote) -> tuple[RemoteFile, ...]:
    """Return the files of a version; where the listing lacks some, as each folder tells them."""
    lacking = damage(part, there)
    if not lacking:
        return there.files
    try:
        deeper = kaggle.files(there.ref, there.version, by_folder=True)
    except RefusedError as no:
        if no.status >= 500 or no.status == 429:
            raise
        return there.files
    return deeper if len(damage(part, replace(there, files=deeper))) < len(lacking) else there.files


def marker(kaggle: Kaggle, ref: str) -> Part | None:
    """Return the part that the marker of the current version describes, None where it is no marker of ours.

    The current version, not one by number: it is what a notebook would get.
    """
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as folder:
        path = Path(folder) / MARKER
        if kaggle.download(ref, MARKER, path) > _MAX_MARKER:
            return None
        try:
            return manifest.parse_manifest(_text(path), f"{ref}/{MARKER}")
        except (ProjectError, UnicodeDecodeError, zipfile.BadZipFile):
            return None


def held(kaggle: Kaggle, ref: str, version: int) -> Part | None:
    """Return the part that a ready dataset holds, None where its files have no marker of ours."""
    marked = any(each.name == MARKER for each in kaggle.files(ref, version))
    return marker(kaggle, ref) if marked else None


def _text(path: Path) -> str:
    # Kaggle wraps some downloads into a zip.
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wrapped:
            return wrapped.read(wrapped.namelist()[0]).decode("utf-8")
    return path.read_text(encoding="utf-8")


def appeared(kaggle: Kaggle, effect: Effect, waiting: Waiting = WAITING) -> bool:
    """Wait until something newer than before the effect shows; False where nothing does within the grace."""

    def newer() -> bool | None:
        found = kaggle.dataset(effect.target)
        if found is None or found.version > effect.before:
            return True if found else None
        # A version that fails may never get a number.
        made = effect.action == Action.CREATE.value
        return True if made or (not effect.before and kaggle.status(effect.target) not in ENDED) else None

    return shown(newer, waiting.until(waiting.grace)) is not None


def until_there(
    kaggle: Kaggle, effect: Effect, waiting: Waiting = WAITING, report: Reporter = SILENT
) -> Remote:
    """Wait until a new version is current and READY and its marker shows the content; return what was seen.

    State and listing may still be the old version's: the number, the state, the marker and the sizes must
    all fit. Raises OutsideError where processing fails or takes longer than it may.
    """
    ref = effect.target
    seen: list[float] = []  # when the marker was there and the files were not
    failed: list[float] = []  # when it had failed and no newer version was there

    def arrived() -> Remote:
        found = kaggle.dataset(ref)
        if found is None or found.version <= effect.before:
            # A version that fails may never get a number, and a first one may have none while it is processed;
            # the state may be the one of the version before, too.
            first, state = effect.action == Action.CREATE.value, kaggle.status(ref) if found else ""
            if found and state in BAD:
                failed.append(time.monotonic())
                if first or failed[-1] - failed[0] > waiting.grace:
                    raise _failed(ref, effect.before + 1, "failed", found.url)
            missing = (
                f"it is still in the state '{state}'"
                if first and state
                else "the new version does not show yet"
            )
            line.tell(missing)
            raise PassingError(missing)
        _check_not_overtaken(found, effect)
        state = kaggle.status(ref)
        line.tell(f"version {found.version}, {state or 'hidden'}")
        if state in BAD:
            raise _failed(ref, found.version, state, found.url)
        if state != "ready":
            raise PassingError(f"it is still in the state '{state}'")
        there = _seen(kaggle, found, state)
        part = there.part
        if part is None or part.id != effect.content:
            raise PassingError(f"what it shows is not this kit: {part.id[:12] if part else 'no marker'}")
        if wrong := differences(part, there):
            seen.append(time.monotonic())
            if seen[-1] - seen[0] > waiting.grace:
                raise not_whole(ref, found.version, wrong)
            raise PassingError(f"its files are not all there: {wrong[0]}")
        return there

    with _Line(kaggle, ref, report) as line:
        patience = waiting.until(waiting.processing)
        return poll(tolerant(arrived, line.tell), patience, lambda e: _never_ready(ref, str(e)))


class OvertakenError(OutsideError):
    """A version of somebody else's came after ours: ours never becomes the current one."""


def _check_not_overtaken(found: RemoteDataset, effect: Effect) -> None:
    """Raise OvertakenError if the current version came after the one of this effect, and is another's.

    Our notes name the content; a first version's are Kaggle's own. Where none are told, the number of versions counts.
    """
    ours = [number for number, notes in found.notes.items() if effect.content in notes]
    if effect.action == Action.CREATE.value:
        ours.append(1)
    known = max(ours) if ours and max(ours) > effect.before else 0
    if not known and not any(found.notes.values()):
        known = effect.before + 1
    if known and found.version > known:
        raise OvertakenError(
            f"another push of '{effect.target}' came after this one: its version {found.version} is current now",
            hint="let one machine push this dataset, and run the same command again there",
        )


class _Line(ExitStack):
    """A live line about a dataset, which begins with the first thing to tell: where nothing is waited for, none."""

    def __init__(self, kaggle: Kaggle, ref: str, report: Reporter) -> None:
        super().__init__()
        self._text = f"{kaggle.account().place} processes '{ref}'"
        self._report = report
        self._say: Say | None = None

    def tell(self, state: str) -> None:
        if self._say is None:
            self._say = self.enter_context(self._report.waiting(self._text))
        self._say(state)


def _never_ready(ref: str, why: str) -> OutsideError:
    return OutsideError(
        f"'{ref}' is not ready in time: {why}",
        hint="run the same command again later: it goes on waiting, and nothing is sent twice",
    )


def _failed(ref: str, version: int, state: str, url: str) -> OutsideError:
    return OutsideError(
        f"Kaggle could not process version {version} of '{ref}' ({state})",
        hint=f"the reason stands only on its page, {url or 'on kaggle.com'}; then run the same command again",
        details=(
            "usual causes: the account's space for private data is full, or a name inside of an archive",
            "that Kaggle unpacks holds '&' or '@'",
        ),
    )
