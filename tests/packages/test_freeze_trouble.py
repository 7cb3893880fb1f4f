"""Requirements that cannot be met: the true reason, all of them at once, and remedies that were tried."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, ProjectError
from tests.support.freezing import Case, bundled, fates, stocked
from tests.support.local_index import LocalIndex
from tests.support.sdists import own_backend


def add_broken(case: Case, name: str, version: str) -> None:
    """Put an sdist on the index that states no metadata and cannot be built."""
    about = f"Metadata-Version: 1.1\nName: {name}\nVersion: {version}\n"
    body = "raise RuntimeError('a placeholder: take it from elsewhere')"
    case.index.add(own_backend(case.folder, name, version, body=body, files={"PKG-INFO": about}))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A project before a stocked index."""
    with LocalIndex() as index:
        yield stocked(tmp_path, index)


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_a_failing_build_ends_in_its_last_words(case: Case, engine: str) -> None:
    """Of a build's traceback the last line is shown, and neither frames nor paths of ours."""
    case = case.with_image(python=platform.python_version())
    add_broken(case, "hollow", "1.0")
    case.add("beta", "2.0", ["hollow"])
    with pytest.raises(ProjectError) as error:
        case.freeze("beta>=2", engine=engine)
    text = "\n".join(error.value.details)
    assert "RuntimeError: a placeholder: take it from elsewhere" in text
    for noise in ("/tmp/offline-kit-", "in <module>", "piptools", "pip._internal"):
        assert noise not in text


def test_the_remedy_for_a_failing_build_was_tried(case: Case) -> None:
    """The package that fails, not the one that was asked for, is excluded, and the freeze then works."""
    add_broken(case, "hollow", "1.0")
    case.add("wide", "2.0", ["hollow", "beta"])
    with pytest.raises(ProjectError, match="hollow") as error:
        case.freeze("wide")
    assert 'exclude = ["hollow"]' in error.value.hint
    assert bundled(case.freeze("wide", exclude=("hollow",))) == {"wide": "2.0", "beta": "1.0"}


def test_a_placeholder_does_not_hide_the_true_reason(case: Case) -> None:
    """If all real versions conflict with the image, that is told, not the failing build of an old placeholder."""
    add_broken(case, "fast", "0.0.1")
    case.add("fast", "2.0", ["torch==2.15.0"])
    with pytest.raises(ProjectError) as error:
        case.freeze("fast")
    text = "\n".join((*error.value.details, error.value.hint))
    assert "placeholder" not in text
    assert "torch: the image has 2.11.0+cpu, and fast wants torch==2.15.0" in error.value.details
    assert 'exclude = ["fast"]' in error.value.hint


def test_an_older_version_with_a_wheel_is_taken_before_a_compile(case: Case) -> None:
    """Compiled code without a wheel for this Python is passed over for a version that has one, and that is told."""
    case.add("quick", "1.9", tag="cp313-cp313-manylinux_2_17_x86_64")
    case.add("quick", "2.0", tag="cp38-cp38-manylinux_2_17_x86_64")
    add_broken(case, "quick", "2.0")
    case.add("user", "1.0", ["quick"])
    assert bundled(case.freeze("user")) == {"user": "1.0", "quick": "1.9"}


def test_why_an_older_version_was_taken_is_told(case: Case) -> None:
    """The newest version's requirements that the image does not meet are named."""
    case.add("tables", "1.5", ["numpy<2", "torch<2.5"])
    case.add("tables", "0.1")
    found = case.freeze("tables")
    assert fates(found) == {"tables": "bundled 0.1"}
    (line,) = found.differences
    for words in (
        "tables 0.1",
        "1.5",
        "numpy<2 (the image has 2.1.3)",
        "torch<2.5 (the image has 2.11.0+cpu)",
    ):
        assert words in line


def test_a_version_that_only_old_pythons_can_have_is_hopeless(case: Case) -> None:
    """Sdists of compiled code that was never built for this Python are no versions that fit."""
    case.add("oldc", "1.0", tag="cp37-cp37m-manylinux1_x86_64")
    add_broken(case, "oldc", "1.0")
    add_broken(case, "oldc", "0.9")
    with pytest.raises(ProjectError) as error:
        case.freeze("oldc", "beta")
    assert "cp37" in error.value.details[0]
    assert "what fits" not in error.value.details[0]
    assert 'exclude = ["oldc"]' in error.value.hint


def test_a_conflict_names_a_change_that_resolves(case: Case) -> None:
    """Of two pins that exclude each other, the change of one is tried before it is advised."""
    case.add("left", "1.0", ["beta<1"])
    case.add("beta", "0.5")
    with pytest.raises(ProjectError) as error:
        case.freeze("left==1.0", "beta==1.0")
    assert "change 'beta==1.0' to 'beta==0.5'" in error.value.hint
    case.freeze("left==1.0", "beta==0.5")


def test_one_failing_line_does_not_hide_the_others(case: Case) -> None:
    """Repository, address, path, syntax, unknown name and unmet pin are all named by one error."""
    with pytest.raises(ProjectError) as error:
        case.freeze(
            "git+https://127.0.0.1:9/nobody/lib.git",
            f"{case.index.root}/none-1.0-py3-none-any.whl",
            "./gone.whl",
            "not a requirement",
            "no-such-thing",
            "numpy==1.26.4",
        )
    text = "\n".join(error.value.details)
    for line in range(1, 7):
        assert f"requirements.in:{line}" in text
    assert "numpy==2.1.3" in error.value.hint


def test_only_outside_trouble_is_no_fault_of_the_project(case: Case) -> None:
    """A repository and an address that do not answer end with the code of the network."""
    with pytest.raises(OutsideError) as error:
        case.freeze("git+https://127.0.0.1:9/nobody/lib.git", "git+https://127.0.0.1:9/nobody/other.git")
    assert "lib.git" in "\n".join(error.value.details)
    assert "other.git" in "\n".join(error.value.details)


def test_advice_never_ends_in_a_compile(case: Case) -> None:
    """If another pin holds a version that nobody can build, the advice moves that pin as well."""
    old = "cp38-cp38-manylinux_2_17_x86_64"
    case.add("yam", "5.4", tag=old)
    add_broken(case, "yam", "5.4")
    case.add("yam", "6.0")
    case.add("light", "1.3", ["yam<=5.4"])
    case.add("light", "2.0", ["yam"])
    with pytest.raises(ProjectError) as error:
        case.freeze("yam==5.4", "light==1.3")
    assert "light==2.0, yam==6.0" in error.value.hint
    case.freeze("yam==6.0", "light==2.0")


def test_a_damaged_wheel_is_passed_over(case: Case) -> None:
    """A version whose file cannot be read does not keep an older one from being taken."""
    (case.folder / "beta-2.0-py3-none-any.whl").write_bytes(b"no archive")
    case.index.add(case.folder / "beta-2.0-py3-none-any.whl", pep658=False)
    assert bundled(case.freeze("alpha")) == {"alpha": "1.0", "beta": "1.0"}
