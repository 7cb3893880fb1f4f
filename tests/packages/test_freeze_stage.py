"""Freezing against an image, before an index of our own."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.packages.freeze.freeze import FreezeRequest, freeze_requirements
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.project.config import Config
from offline_kit.project.types import Fate, Freeze
from tests.support.freezing import NOW, Case, bundled, fates, pin, stocked
from tests.support.local_index import LocalIndex, folder_index, make_wheel, unreachable
from tests.support.sdists import own_backend


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """A project before a stocked index."""
    with LocalIndex() as index:
        yield stocked(tmp_path, index)


def test_what_the_image_has_is_not_bundled(case: Case) -> None:
    """The image's versions win over newer ones; only what it lacks goes into the kit."""
    found = case.freeze("alpha", "pandas")
    assert fates(found) == {
        "alpha": "bundled 1.0",
        "beta": "bundled 1.0",
        "numpy": "provided 2.1.3",
        "pandas": "provided 2.3.3",
    }
    assert pin(found, "numpy").asked_by == ("alpha",)
    assert pin(found, "beta").requires == ("beta>=1",)
    assert pin(found, "beta").reason == "the image lacks it"
    assert len(pin(found, "alpha").hashes) == 1


def test_only_the_extras_of_provided_packages_are_followed(case: Case) -> None:
    """optuna[optional] brings what the extra asks for, extras of extras included, and not optuna."""
    assert bundled(case.freeze("optuna[optional]")) == {"cmaes": "0.13", "xlsx": "3.1"}


def test_torch_comes_without_cuda(case: Case) -> None:
    """The image's torch 2.11.0+cpu serves, though no index has it; its CUDA libraries are never reached."""
    found = case.freeze("vision", "torch[opt]")
    assert fates(found) == {
        "einops": "bundled 0.8",
        "numpy": "provided 2.1.3",
        "torch": "provided 2.11.0+cpu",
        "vision": "bundled 1.0",
    }


@pytest.mark.parametrize("line", ["torch==2.11.0", "torch==2.11.0+cu128", "torch>=2.11"])
def test_torch_is_compared_without_local_version(case: Case, line: str) -> None:
    """A pin on another build of the image's torch is met by the image."""
    assert fates(case.freeze(line)) == {"torch": "provided 2.11.0+cpu"}


def test_accelerator_libraries_are_left_out(case: Case) -> None:
    """What serves accelerators alone is skipped on a CPU image, and not followed."""
    case.add("boost", "1.0", ["nvidia-nccl", "numpy"])
    case.add("nvidia-nccl", "2.0", ["nvidia-more"])
    case.add("nvidia-more", "2.0")
    found = case.freeze("boost")
    assert fates(found) == {
        "boost": "bundled 1.0",
        "numpy": "provided 2.1.3",
        "nvidia-nccl": "skipped 2.0",
    }
    assert "accelerator" in pin(found, "nvidia-nccl").reason


def test_image_versions_that_no_index_has(case: Case) -> None:
    """A package installed from git in the image serves as any other."""
    case.add("gitted", "0.5")
    case.add("user", "1.0", ["gitted"])
    assert fates(case.freeze("user")) == {"gitted": "provided 1.0", "user": "bundled 1.0"}


def test_protected_packages_are_not_replaced(case: Case) -> None:
    """What wants another numpy is an error that names who asked, what the image has, and the remedy."""
    with pytest.raises(ProjectError) as error:
        case.freeze("modern")
    assert error.value.details == ("numpy: the image has 2.1.3, and modern wants numpy>=2.3",)
    assert "`replace`" in error.value.hint


def test_replace_allows_it_and_says_what_breaks(case: Case) -> None:
    """A named package is replaced; who asked and which image packages break by it are told."""
    found = case.freeze("pandas>=3")
    assert bundled(found) == {"pandas": "3.0"}
    (one,) = found.replacements
    assert (one.name, one.replaces, one.version) == ("pandas", "2.3.3", "3.0")
    assert one.asked_by == ("-r requirements.in",)
    assert one.breaks == ("glue (wants pandas<3)",)
    assert bundled(case.freeze("modern", replace=("numpy",))) == {"modern": "1.0", "numpy": "2.4.0"}


def test_nothing_is_replaced_where_an_older_release_will_do(case: Case) -> None:
    """A newer minor release that would replace an image package yields to one that does not, and that is said."""
    case.add("plot", "1.4", ["pandas>=3"])
    case.add("plot", "1.3", ["pandas>=2"])
    found = case.freeze("plot")
    assert fates(found) == {"pandas": "provided 2.3.3", "plot": "bundled 1.3"}
    assert found.differences == ("plot 1.3 was taken, not 1.4, which would replace pandas of the image",)


def test_a_major_step_back_is_no_remedy(case: Case) -> None:
    """An old major release is not chosen for the sake of the image: the replacement is said instead."""
    case.add("plot", "2.0", ["pandas>=3"])
    case.add("plot", "1.3")
    assert bundled(case.freeze("plot")) == {"pandas": "3.0", "plot": "2.0"}


def test_all_that_cannot_be_met_is_one_error(case: Case) -> None:
    """Old exact pins, protected packages and unknown names are listed together, with the image's versions."""
    case.add("oldc", "1.0", tag="cp37-cp37m-manylinux1_x86_64")
    case.add("oldpy", "1.0", requires_python="<3.10")
    with pytest.raises(ProjectError) as error:
        case.freeze("torch==1.13.1", "oldc==1.0", "oldpy==1.0", "pands", "beta", "pandas==1.3.5", "numpy<2")
    text = "\n".join(error.value.details)
    assert len(error.value.details) == 6
    assert "torch==1.13.1 (requirements.in:1): the image has 2.11.0+cpu, which is protected" in text
    assert "cp37" in text
    assert "'pands'; did you mean 'pandas'?" in text
    assert "pandas==1.3.5" in text
    assert "the image has 2.3.3" in text
    for version in ("torch==2.11.0", "pandas==2.3.3", "numpy==2.1.3", "oldc", "oldpy"):
        assert version in error.value.hint


def test_ranges_that_nothing_meets_are_listed_too(case: Case) -> None:
    """No version in the range, or none with a file for the image, is told with what there is, all at once."""
    case.add("windows", "1.0", tag="cp313-cp313-win_amd64")
    with pytest.raises(ProjectError) as error:
        case.freeze("beta>=99", "windows>=0.5", "cmaes", "no-such-thing")
    assert error.value.details == (
        "beta>=99 (requirements.in:1): no version is in that range; the newest is 1.0",
        "windows>=0.5 (requirements.in:2): 1.0, the newest: its wheels are for cp313 on win_amd64; there is no sdist",
        "no-such-thing (requirements.in:4): no index has a package 'no-such-thing'",
    )
    assert "check the spelling" in error.value.hint
    assert "beta==1.0" in error.value.hint
    assert 'exclude = ["windows"]' in error.value.hint


def test_the_freeze_names_who_asks(case: Case) -> None:
    """What the trained files or own packages need is no requirement of a pyproject.toml that there is not."""
    asked = ("cmaes", "beta>=1", "einops")
    origins = {"cmaes": "the trained files", "beta>=1": "the project's packages"}
    frozen = case.freeze(inline=asked, origins=origins)
    assert {name: pin(frozen, name).asked_by for name in ("cmaes", "beta", "einops")} == {
        "cmaes": ("the trained files",),
        "beta": ("the project's packages",),
        "einops": ("pyproject.toml",),
    }
    assert "cmaes==0.13" in frozen.text
    assert "# via the trained files" in frozen.text
    assert case.freeze(inline=asked, origins=origins).pins == frozen.pins, "the same when it is read back"


def test_an_sdist_that_does_not_serve_is_told_with_why(case: Case) -> None:
    """It is of compiled code, never built for this Python; no remedy speaks of an image that lacks the package."""
    case.add("sql", "2.2", tag="cp38-cp38-win_amd64")
    case.index.add(own_backend(case.folder, "sql", "2.2"))
    case.add("sql", "2.3", tag="py3-none-any")
    with pytest.raises(ProjectError) as error:
        case.freeze("sql==2.2")
    (line,) = error.value.details
    assert line == (
        "sql==2.2 (requirements.in:1): its wheels are for cp38; there is an sdist, of compiled code, which was never"
        " built for Python 3.13; what fits: 2.3"
    )
    assert "image's version" not in error.value.hint
    assert "sql==2.3" in error.value.hint


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_conflicts_are_explained(case: Case, engine: str) -> None:
    """Two requirements that exclude each other end in the resolver's own explanation, without our paths."""
    import platform

    case = case.with_image(python=platform.python_version())
    case.add("one", "1.0", ["beta<1"])
    case.add("beta", "0.5")
    with pytest.raises(ProjectError) as error:
        case.freeze("alpha", "one", engine=engine)
    assert error.value.code == "requirements-conflict"
    text = "\n".join(error.value.details)
    for words in ("alpha", "beta<1", "beta>=1"):
        assert words in text
    for noise in ("/tmp", "offline-kit-", "Traceback", "127.0.0.1"):
        assert noise not in text


def test_unknown_transitive_package(case: Case) -> None:
    """A dependency that no index has is named."""
    case.add("broken", "1.0", ["no-such-thing"])
    with pytest.raises(ProjectError) as error:
        case.freeze("broken")
    assert "no-such-thing" in "\n".join(error.value.details)


def refused(case: Case, url: str) -> str:
    """Freeze before an extra index that is in trouble, and return all words of the error."""
    case.settings = replace(
        case.settings, extra_index_urls=(url.replace("://", "://me:s3cret@"),), timeout=1.0
    )
    with pytest.raises(OutsideError) as error:
        case.freeze("alpha")
    assert not case.lock.exists()
    return "\n".join([str(error.value), error.value.hint, *error.value.details])


def test_an_extra_index_that_refuses_is_an_error(case: Case) -> None:
    """An index that answers with an error is named, without its password, and never passed over."""
    with LocalIndex() as other:
        other.fail("/alpha", 403)
        text = refused(case, other.url)
    assert other.url.split("/")[2] in text
    assert "s3cret" not in text


@pytest.mark.slow
def test_an_index_that_fails_midway_is_an_error(case: Case) -> None:
    """Trouble that only the resolver meets is told as the index's, and nothing is written."""
    case.index.fail("/simple/beta", 500, times=1000)
    with pytest.raises(OutsideError) as error:
        case.freeze("alpha")
    assert "/simple/beta" in str(error.value)
    assert not case.lock.exists()


def test_nothing_secret_and_no_path_is_written(case: Case) -> None:
    """The written freeze holds neither credentials nor any place of this machine."""
    url = case.index.with_credentials("me", "s3cret")
    case.settings = IndexSettings(index_url=url)
    (case.folder / "project" / "libs").mkdir(parents=True)
    make_wheel(case.folder / "project" / "libs", "given", "1.0", requires=["alpha"])
    found = case.freeze("./libs/given-1.0-py3-none-any.whl", f"--extra-index-url {url}")
    text = case.lock.read_text()
    assert bundled(found) == {"alpha": "1.0", "beta": "1.0", "given": "1.0"}
    assert "# from: libs/given-1.0-py3-none-any.whl" in text
    for secret in ("s3cret", str(case.folder), "127.0.0.1"):
        assert secret not in text


def test_the_same_inputs_are_read_back_without_network(case: Case) -> None:
    """A second freeze asks no index and is the same to the last field."""
    make_wheel(case.folder / "project", "given", "1.0", requires=["alpha"])
    lines = ("optuna[optional]", "pandas>=3", "./given-1.0-py3-none-any.whl", "torch")
    first = case.freeze(*lines)
    case.index.requests.clear()
    case.settings = IndexSettings(index_url=unreachable())
    second = case.freeze(*lines, moment=NOW + timedelta(days=30))
    assert second == first
    assert not case.index.requests


def test_changed_inputs_leave_the_other_pins_alone(case: Case) -> None:
    """One more requirement does not move what was frozen; --upgrade does."""
    case.freeze("alpha")
    case.add("beta", "1.5")
    assert bundled(case.freeze("alpha", "cmaes")) == {"alpha": "1.0", "beta": "1.0", "cmaes": "0.13"}
    assert bundled(case.freeze("alpha", "cmaes", upgrade=True))["beta"] == "1.5"


def test_the_order_of_time_does_not_matter(case: Case) -> None:
    """What was uploaded after the cut-off is not considered."""
    case.add("beta", "9.0", upload_time="2026-11-23T00:00:00Z")
    found = case.freeze("alpha")
    assert bundled(found)["beta"] == "1.0"
    assert found.cutoff == "2026-11-22T12:00:00Z"


def test_indexes_without_upload_times_count_in_full(case: Case) -> None:
    """A folder index and a plain find-links folder tell no times, and their files are taken all the same."""
    wheels = [make_wheel(case.folder / "w", "only", "1.0", requires=["linked"])]
    make_wheel(case.folder / "links", "linked", "2.0")
    case.settings = replace(
        case.settings,
        extra_index_urls=(folder_index(case.folder / "simple", wheels),),
        find_links=(str(case.folder / "links"),),
    )
    found = case.freeze("only", "alpha")
    assert bundled(found) == {"alpha": "1.0", "beta": "1.0", "linked": "2.0", "only": "1.0"}
    assert all(one.hashes for one in found.pins_with(Fate.BUNDLED))


def test_a_hand_edit_is_refused_until_upgrade(case: Case) -> None:
    """An edited freeze is an error; --upgrade writes it anew."""
    text = case.freeze("alpha").text
    case.lock.write_text(text.replace("beta==1.0", "beta==0.9"))
    with pytest.raises(ProjectError) as error:
        case.freeze("alpha")
    assert error.value.code == "freeze-file-edited"
    assert case.freeze("alpha", upgrade=True).text == text


def test_a_foreign_file_is_not_overwritten(case: Case) -> None:
    """A file that we did not write stays, whatever is asked."""
    case.project.mkdir()
    case.lock.write_text("mine\n")
    for upgrade in (False, True):
        with pytest.raises(ProjectError) as error:
            case.freeze("alpha", upgrade=upgrade)
        assert error.value.code == "freeze-file-foreign"
    assert case.lock.read_text() == "mine\n"


def test_exclude_and_include(case: Case) -> None:
    """Excluded packages are skipped with all that only they want; included ones are bundled although provided."""
    found = case.freeze("alpha", "pandas", exclude=("Alpha",), include=("pandas",))
    assert fates(found) == {"alpha": "skipped ", "numpy": "provided 2.1.3", "pandas": "bundled 2.3.3"}
    assert pin(found, "alpha").reason == "named in `exclude`"
    assert found.replacements == ()


@pytest.mark.parametrize("engine", ["uv", "pip-tools"])
def test_excluded_packages_never_reach_the_resolver(case: Case, engine: str) -> None:
    """What no index has, in a file, a lock or another package's requirements, is no obstacle once it is excluded."""
    import platform

    case = case.with_image(python=platform.python_version())
    case.add("wide", "1.0", ["beta", "no-such-thing[gpu]>=7 ; python_version > '3'", "modern"])
    case.project.mkdir()
    lock = case.project / "frozen.txt"
    lock.write_text("pywin32==306\nbeta==1.0\n")
    found = case.freeze(
        "wide",
        "pywin32==306",
        "gone @ git+https://127.0.0.1:1/nobody/gone",
        "git+https://127.0.0.1:1/nobody/unnamed.git@v1",
        locks=(lock,),
        exclude=("No_Such.Thing", "pywin32", "gone", "unnamed", "modern"),
        engine=engine,
    )
    assert fates(found) == {
        "beta": "bundled 1.0",
        "modern": "skipped ",
        "no-such-thing": "skipped ",
        "pywin32": "skipped ",
        "wide": "bundled 1.0",
    }
    assert found.differences == ()


def test_what_only_training_needs_is_left_out(case: Case) -> None:
    """A client that logs in and a formatter stay behind, unless code imports them, `include` names them, or a package asks."""
    case.add("kaggle", "1.6.14", ["beta"])
    case.add("black", "24.1")
    case.add("client", "1.0", ["kaggle"])
    found = case.freeze("kaggle==1.6.14", "black==24.1", "alpha", "jupyterlab==3", "pywin32==306")
    assert bundled(found) == {"alpha": "1.0", "beta": "1.0"}
    assert {pin.name for pin in found.pins_with(Fate.SKIPPED)} == {"black", "jupyterlab", "kaggle", "pywin32"}
    assert "logs in" in pin(found, "kaggle").reason
    assert "kaggle" in bundled(case.freeze("kaggle==1.6.14", imported=frozenset({"kaggle"})))
    assert "black" in bundled(case.freeze("black==24.1", include=("black",)))
    assert bundled(case.freeze("client")) == {"beta": "1.0", "client": "1.0", "kaggle": "1.6.14"}


def test_own_packages_never_come_from_the_index(case: Case) -> None:
    """The project's own package is left to own code, even where the index has one of that name."""
    case.add("plants", "9.9", ["xlsx"])
    case.add("helper", "1.0", ["plants", "beta"])
    found = case.freeze("plants", "helper", own=("Plants",))
    assert fates(found) == {"beta": "bundled 1.0", "helper": "bundled 1.0", "plants": "skipped "}


def test_lock_files_yield_to_the_image(case: Case) -> None:
    """Liked pins count where the image has no say; where it has, it wins, and each difference is listed."""
    case.add("beta", "1.5")
    case.project.mkdir()
    lock = case.project / "freeze.txt"
    lock.write_text("beta==1.0\npandas==3.0\nnumpy==1.26.4\n")
    found = case.freeze("alpha", "pandas", locks=(lock,))
    assert fates(found)["beta"] == "bundled 1.0"
    assert fates(found)["pandas"] == "provided 2.3.3"
    assert found.differences == (
        "numpy: freeze.txt has 1.26.4, the image has 2.1.3",
        "pandas: freeze.txt has 3.0, the image has 2.3.3",
    )


def test_what_a_freeze_had_from_elsewhere_is_told(case: Case) -> None:
    """Lines of `pip freeze` without a version are named, but for what the image or the project has."""
    case.project.mkdir()
    lock = case.project / "freeze.txt"
    lock.write_text(
        "beta==1.0\ntorch @ file:///conda/torch\nlocal @ file:///home/me/local\nmine @ file:///home/me/mine\n"
        "-e git+https://h.example/x@0f#egg=edited\n"
    )
    told = case.freeze("beta", locks=(lock,), own=("mine",)).differences
    assert [line.partition(" ")[0] for line in told] == ["edited:", "local:"]
    assert "freeze.txt" in told[0]


def test_wishes_that_cannot_be_met_move_to_the_nearest_wheel(case: Case) -> None:
    """The next version up with a wheel, else the next one down, never a compile; what has none is left out, all listed."""
    old = "cp38-cp38-manylinux_2_17_x86_64"
    for name, version, tag in (
        *(("up", "1.0", old), ("up", "1.4", "py3-none-any"), ("up", "2.0", "py3-none-any")),
        *(("down", "3.0", old), ("down", "2.5", "py3-none-any"), ("down", "1.0", "py3-none-any")),
        ("never", "1.0", old),
    ):
        case.add(name, version, tag=tag)
    case.index.add(own_backend(case.folder, "up", "1.0"))
    case.project.mkdir()
    lock = case.project / "requirements.txt"
    lock.write_bytes("down==3.0\r\ngone==1.0\r\nnever==1.0\r\nnumpy==1.20\r\nup==1.0\r\n".encode("utf-16"))
    found = case.freeze(requirements=(lock,))
    assert fates(found) == {
        "down": "bundled 2.5",
        "gone": "skipped ",
        "never": "skipped ",
        "numpy": "provided 2.1.3",
        "up": "bundled 1.4",
    }
    assert found.differences == (
        "down: requirements.txt has 3.0, the kit brings 2.5",
        "numpy: requirements.txt has 1.20, the image has 2.1.3",
        "up: requirements.txt has 1.0, the kit brings 1.4",
    )
    with pytest.raises(ProjectError, match="requirement") as error:
        case.freeze(requirements=(lock,), imported=frozenset({"never"}))
    assert "never" in error.value.details[0]


def test_many_differences_share_a_line(case: Case) -> None:
    """A freeze of a whole environment is told in a few lines."""
    names = [f"many{number}" for number in range(40)]
    for name in names:
        case.add(name, "2.0")
    case.project.mkdir()
    lock = case.project / "requirements.lock"
    lock.write_text("".join(f"{name}==1.0\n" for name in names))
    (line,) = case.freeze(locks=(lock,), requirements=()).differences
    assert all(name in line for name in names)


def test_lock_pins_win_where_replace_names_them(case: Case) -> None:
    """`replace` and `pins = "lock"` let lock pins win; protected packages need the former."""
    case.project.mkdir()
    lock = case.project / "freeze.txt"
    lock.write_text("pandas==3.0\nnumpy==1.26.4\n")
    assert bundled(case.freeze("pandas", locks=(lock,), pins="lock")) == {"pandas": "3.0"}
    found = case.freeze("pandas", "alpha", locks=(lock,), replace=("numpy",))
    assert bundled(found) == {"alpha": "1.0", "beta": "1.0", "numpy": "1.26.4"}


def test_a_compiled_requirements_file_is_a_lock(case: Case) -> None:
    """The exact pins of pip-compile's output are preferences, not demands."""
    case.project.mkdir()
    path = case.project / "requirements.txt"
    path.write_text("# This file is autogenerated by pip-compile with Python 3.11\npandas==3.0\nbeta==1.0\n")
    found = case.freeze(requirements=(path,))
    assert fates(found) == {"beta": "bundled 1.0", "pandas": "provided 2.3.3"}
    assert found.differences == ("pandas: requirements.txt has 3.0, the image has 2.3.3",)


def test_a_lock_alone_is_enough(case: Case) -> None:
    """Without requirements, what the lock file names is frozen."""
    case.project.mkdir()
    lock = case.project / "freeze.txt"
    lock.write_text("alpha==1.0\nbeta==1.0\n")
    assert bundled(case.freeze(requirements=(), locks=(lock,))) == {"alpha": "1.0", "beta": "1.0"}


def test_constraints_bind(case: Case) -> None:
    """A -c file limits what something else asks for, and adds nothing."""
    case.add("beta", "2.0")
    case.project.mkdir()
    (case.project / "limits.txt").write_text("beta<2\ncmaes<1\npandas>=3\n")
    found = case.freeze("alpha", "pandas", "-c limits.txt")
    assert bundled(found) == {"alpha": "1.0", "beta": "1.0", "pandas": "3.0"}
    assert "pandas>=3" in pin(found, "pandas").requires


def test_markers_are_the_images(case: Case) -> None:
    """Lines for other systems and Pythons are left out, wherever this runs."""
    found = case.freeze(
        "alpha; python_version < '3.13'", "beta; sys_platform == 'win32'", "cmaes; os_name == 'posix'"
    )
    assert bundled(found) == {"cmaes": "0.13"}


def test_hashes_of_a_line_are_obeyed(case: Case) -> None:
    """Only files with an allowed hash are frozen; none is an error."""
    good = pin(case.freeze("beta"), "beta").hashes[0]
    assert pin(case.freeze(f"beta==1.0 --hash={good}"), "beta").hashes == (good,)
    with pytest.raises(ProjectError) as error:
        case.freeze(f"beta==1.0 --hash=sha256:{'0' * 64}")
    assert error.value.code == "hash-mismatch"
    assert error.value.details == ("requirements.in:1: beta 1.0",)


def test_small_doubtful_packages_travel_as_spares(case: Case) -> None:
    """Before a reconstruction, pure provided packages that the kit wants travel along; protected ones do not."""
    assert not pin(case.freeze("alpha", "pandas"), "pandas").spare
    found = case.with_image(provenance="a reconstruction").freeze("alpha", "pandas")
    assert pin(found, "pandas").spare
    assert pin(found, "pandas").hashes
    assert not pin(found, "numpy").spare


def test_the_image_counts_into_the_inputs(case: Case) -> None:
    """Another image makes another freeze."""
    first = case.freeze("pandas")
    second = case.with_image(packages={"numpy": "2.1.3"}).freeze("pandas")
    assert first.input_hash != second.input_hash
    assert bundled(second) == {"pandas": "3.0"}


def test_index_lines_of_files_count(case: Case) -> None:
    """An --extra-index-url in a requirements file is asked too, here and where the files are fetched from."""
    with LocalIndex() as other:
        other.add(make_wheel(case.folder, "private", "1.0"))
        line = f"--extra-index-url {other.url}"
        assert bundled(case.freeze("private", line)) == {"private": "1.0"}


def test_metadata_that_pip_refuses_is_told(case: Case) -> None:
    """An old release whose metadata today's pip refuses is frozen by uv, with a warning."""
    case.add("relic", "1.0", ["beta (>=0.8.*)"])
    (note,) = case.freeze("relic").differences
    assert note.startswith("relic 1.0 asks for 'beta (>=0.8.*)'")


def test_the_running_python_as_image(case: Case) -> None:
    """`--image local` freezes for the running interpreter."""
    import platform
    import sys

    case = case.with_image(local=True, python=platform.python_version(), interpreter=Path(sys.executable))
    found = case.freeze("alpha", f"beta; python_version == '{sys.version_info[0]}.{sys.version_info[1]}'")
    assert fates(found) == {"alpha": "bundled 1.0", "beta": "bundled 1.0", "numpy": "provided 2.1.3"}


def test_pip_tools_takes_over_where_it_was_used(case: Case) -> None:
    """With requirements.in compiled by pip-compile and the target's Python running, pip-tools is the engine."""
    import platform

    case.add("beta", "2.0")
    case.project.mkdir()
    (case.project / "requirements.txt").write_text(
        "# This file is autogenerated by pip-compile with Python 3\nbeta==1.0\n"
    )
    found = case.with_image(python=platform.python_version()).freeze("beta", engine="auto")
    assert (found.engine, bundled(found)) == ("pip-tools", {"beta": "1.0"})
    elsewhere = case.with_image(python="3.9.1").freeze("beta", engine="auto", upgrade=True)
    assert (elsewhere.engine, bundled(elsewhere)) == ("uv", {"beta": "1.0"})


def test_no_requirements_at_all(case: Case) -> None:
    """A project that asks for nothing has an empty freeze, and no index is asked."""
    assert case.freeze("# nothing").pins == ()
    assert not case.index.requests


def test_both_engines_give_the_same_pins(case: Case) -> None:
    """uv and pip-tools agree to the last pin and hash; only the name of the engine differs."""
    import platform

    case = case.with_image(python=platform.python_version())
    lines = ("optuna[optional]", "vision", "alpha", "pandas")
    frozen: list[Freeze] = [
        case.freeze(*lines, engine=engine, upgrade=True) for engine in ("uv", "pip-tools")
    ]
    assert [one.engine for one in frozen] == ["uv", "pip-tools"]
    assert frozen[0].pins == frozen[1].pins
    assert re.sub("(engine|inputs|content): .*", "", frozen[0].text) == re.sub(
        "(engine|inputs|content): .*", "", frozen[1].text
    )


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that refuses even root")
def test_a_project_that_takes_no_lock_is_told_what_to_do(case: Case) -> None:
    """The lock lies beside the project, so another --out is no remedy: it may be made elsewhere and copied."""
    case.freeze("alpha")
    config = Config(
        project=Path("/sys"),
        name="",
        version="",
        requirements=(case.project / "requirements.in",),
        engine="uv",
    )
    asked = FreezeRequest(config=config, moment=NOW)
    with pytest.raises(OutsideError) as caught:
        freeze_requirements(asked, case.image, case.settings, cache=case.folder / "cache")
    assert caught.value.code == "project-not-writable"
    assert "--out" not in caught.value.hint
