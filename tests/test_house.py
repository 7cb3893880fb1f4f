"""bench/house.py counts what it says that it counts, in a working tree and in a git revision."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "bench" / "house.py"
COPIED = "".join(f"    print({number})\n\n" for number in range(6))
FILES = {
    "__init__.py": "",
    "first.py": f'''"""A docstring is no code."""

from offline_kit.folder import second


class Plan:  # one comment
    """A plan."""

    def __init__(self):
        self.found = second.read_all_rows()


def make_plan():
    found, rows = Plan(), [each for each in range(3)]  # noqa: C416
{COPIED}
''',
    "folder/second.py": f"""from offline_kit.first import make_plan

class _Plan: pass

def read_all_rows():
    with open("rows") as rows:
        return _parse(rows)

def _parse(rows):
    if (count := len(rows)) > 2: return read_all_rows()
{COPIED}
""",
    "checks/pins.py": "class Check: pass\n",
    "checks/wheels.py": "class Check: pass\n",
}


def _figures(*words: str | Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, SCRIPT, "--json", *words], check=True, capture_output=True)
    figures: dict[str, object] = json.loads(done.stdout)
    return figures


def test_figures_of_a_small_package(tmp_path: Path) -> None:
    for name, text in FILES.items():
        path = tmp_path / "offline_kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    figures = _figures("--root", tmp_path)
    details = figures.pop("details")
    assert figures == {
        "lines": sum(len(text.splitlines()) for text in FILES.values()),
        "files": 5,
        "top_level_modules": 2,
        "words_per_function_name": 2,  # make_plan, read_all_rows, _parse
        "generic_names_percent": 40,  # found and each; not rows (twice) and count
        "duplicate_classes": 1,  # Plan; Check is a family's
        "comments_per_100_lines": 3.7,  # 1 in 12 + 13 + 2 lines
        "identical_runs": 1,
        "median_file": 1,
        "longest_file": 27,
        "longest_call_chain": 3,  # make_plan, Plan.__init__, and the circle of the two below
    }
    assert isinstance(details, dict)
    assert details["classes"] == ["Plan"]

    git = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "offline_kit" / "first.py").write_text("")
    assert _figures("--root", tmp_path, "HEAD") == {**figures, "details": details}
    assert _figures("--root", tmp_path)["duplicate_classes"] == 0
