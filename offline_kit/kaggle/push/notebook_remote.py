"""Looking for a pushed version of a notebook, and what Kaggle says against one, in words of our own."""

from collections.abc import Sequence

from offline_kit.core.errors import OutsideError
from offline_kit.kaggle.client.api_types import KaggleApi, NewNotebook, RefusedError, SavedNotebook
from offline_kit.kaggle.push.journal import Effect
from offline_kit.kaggle.push.notebook_equality import NotebookDifference, find_mismatches, suggest_source_fix
from offline_kit.kaggle.push.poll_policy import PollPolicy, wait_until_shown

AGAIN = "run the same command again: it goes on, and nothing is pushed twice"
_LOOK_BACK = 5  # versions that others may have saved on top of ours


def find_pushed_version(
    effect: Effect, notebook: NewNotebook | None, kaggle: KaggleApi, poll_policy: PollPolicy
) -> int:
    """Return the version that came of an effect, 0 where none shows within the grace; without `notebook` any newer one."""

    def find_newer() -> int | None:
        newest = kaggle.get_notebook(effect.target)
        current = newest.newest_version if newest else 0
        for number in range(current, max(effect.before, current - _LOOK_BACK), -1):
            remote = newest if number == current else kaggle.get_notebook(effect.target, number)
            # Kaggle may write cells anew: of the version right behind ours, their text says nothing.
            next_one = number == effect.before + 1
            if notebook is None or (
                remote
                and all(
                    next_one and mismatch.is_rewritten_text for mismatch in find_mismatches(notebook, remote)
                )
            ):
                return number
        return None

    return wait_until_shown(find_newer, poll_policy.retry_policy(poll_policy.visibility_timeout)) or 0


def read_back(
    notebook: NewNotebook, saved: SavedNotebook, kaggle: KaggleApi, poll_policy: PollPolicy
) -> tuple[NotebookDifference, ...]:
    """Return how Kaggle shows a version otherwise than it was pushed, and goes on to do so within the grace.

    Raises OutsideError where it does not show at all: a fresh notebook is hidden for a while.
    """
    last: list[tuple[NotebookDifference, ...]] = []

    def read_differences() -> tuple[NotebookDifference, ...] | None:
        remote = kaggle.get_notebook(notebook.ref, saved.version)
        if remote is None:
            return None
        last[:] = [find_mismatches(notebook, remote)]
        return last[0] if not last[0] or any(difference.is_exposed for difference in last[0]) else None

    wait_until_shown(read_differences, poll_policy.retry_policy(poll_policy.visibility_timeout))
    if not last:
        raise OutsideError(f"version {saved.version} of '{notebook.ref}' cannot be read back yet", hint=AGAIN)
    return last[0]


def build_mismatch_error(saved: SavedNotebook, differences: Sequence[NotebookDifference]) -> OutsideError:
    """Return the error for a version that Kaggle shows otherwise than it was pushed."""
    return OutsideError(
        f"version {saved.version} of '{saved.ref}' is not as it was pushed: {differences[0].summary}",
        hint=differences[0].remedy,
        details=[difference.summary for difference in differences[1:]],
    )


def build_busy_error(trouble: Exception) -> OutsideError:
    """Return the error for sessions that did not come free in time."""
    return OutsideError(
        "Kaggle has no free session for this notebook",
        hint="end a run that is not needed (kaggle.com, 'View Active Events'), or run the same command again later",
        details=(str(trouble),),
    )


def build_refusal(refusal: RefusedError, notebook: NewNotebook) -> OutsideError:
    """Return a refusal with what to do about it."""
    message = refusal.what.lower()
    if refusal.status == 409:
        summary = (
            f"Kaggle does not take '{notebook.ref}': a dataset or another notebook has this title or slug"
        )
        return OutsideError(
            summary, hint="choose another `title` in [tool.offline-kit.notebook]", details=(refusal.what,)
        )
    if "quota" in message:
        hint = "wait until the quota is renewed (each week), or leave `accelerator` out"
        return OutsideError(
            f"'{notebook.ref}' was not pushed: the quota is used up", hint=hint, details=(refusal.what,)
        )
    if "not found" in message:
        hint = "if it was made on the web and never saved, save it once there; or choose another `title`"
        return OutsideError(
            f"Kaggle cannot find '{notebook.ref}' to update it", hint=hint, details=(refusal.what,)
        )
    return refusal


def build_sources_error(saved: SavedNotebook, notebook: NewNotebook) -> OutsideError | None:
    """Return the error for sources that were not attached, each with its remedy; None where all were."""
    if not saved.rejected_sources:
        return None
    remedies = {}
    site = saved.url.partition("/code/")[0]
    for source in saved.rejected_sources:
        kind, _, ref = source.partition(" ")
        remedies[source] = suggest_source_fix(kind, ref.strip("'"), site)
    first = next(iter(remedies.values()))
    return OutsideError(
        f"Kaggle did not attach {len(remedies)} of the sources of '{notebook.ref}':"
        f" version {saved.version} runs without and does not count",
        hint=f"{first}; then run the same command again: it pushes another version",
        details=[f"{source}: {remedy}" for source, remedy in remedies.items()],
    )


def build_moved_error(saved: SavedNotebook, notebook: NewNotebook) -> OutsideError | None:
    """Return the error for a notebook that the title led to another place; None where it is as asked for."""
    if saved.ref.casefold() == notebook.ref.casefold():
        return None
    return OutsideError(
        f"Kaggle put the notebook to '{saved.ref}', not to '{notebook.ref}': the title '{notebook.title}' decides",
        hint="set `title` in [tool.offline-kit.notebook] to one that makes this slug, and delete the other notebook",
        details=(saved.url,) if saved.url else (),
    )
