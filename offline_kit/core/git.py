"""From which commit something was made."""

from pathlib import Path

from offline_kit.core import processes
from offline_kit.core.errors import OfflineKitError

DIRTY = "+changes"  # ends the commit of a working tree whose tracked files differ from it


def read_commit(folder: Path) -> str:
    """Return the commit that a folder is at, marked if tracked files of its repository were changed since.

    Empty if there is no git, no repository, no commit yet, or git does not answer; never an error.
    """
    # Untracked files do not count: what a build writes would mark every tree. All tags are excluded.
    words = ["describe", "--always", "--abbrev=40", f"--dirty={DIRTY}", "--exclude=*"]
    # Inside of a git hook these name another repository than the folder's.
    env = processes.copy_environment(
        GIT_DIR=None, GIT_WORK_TREE=None, GIT_INDEX_FILE=None, GIT_OPTIONAL_LOCKS="0"
    )
    try:
        answer = processes.run_command(["git", *words], cwd=folder, env=env, timeout=20, check=False)
    except (OfflineKitError, OSError):
        return ""
    return answer.out.strip() if answer.succeeded else ""
