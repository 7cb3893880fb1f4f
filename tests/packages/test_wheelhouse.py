"""The wheelhouse: the right file for the image, whole, once."""

import hashlib
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import sys_tags

from offline_kit.core.cache import Cache
from offline_kit.core.errors import OutsideError, ProjectError
from offline_kit.core.retry import RetryPolicy
from offline_kit.packages.file_choice import choose_file
from offline_kit.packages.index import IndexFile, PackageIndex
from offline_kit.packages.pip_settings import IndexSettings
from offline_kit.packages.wheelhouse import fetch_wheelhouse
from offline_kit.project.images import Image
from offline_kit.project.types import Fate, Pin, Wheelhouse
from tests.support.listener import Listener
from tests.support.local_index import LocalIndex, make_sdist, make_wheel, unreachable

IMAGE = Image(name="kaggle-test", title="", accelerator="none", python="3.13.5", packages={})


@pytest.fixture
def index() -> Iterator[LocalIndex]:
    with LocalIndex() as index:
        yield index


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def asking(index: LocalIndex | str, cache: Cache) -> PackageIndex:
    """Return a fresh reader of the index, without memory of earlier answers."""
    url = index if isinstance(index, str) else index.url
    patience = RetryPolicy(attempts=2, backoff=0.01)
    return PackageIndex(IndexSettings(index_url=url, timeout=5), cache=cache.root, patience=patience)


def pin(name: str, version: str = "1.0", **more: object) -> Pin:
    """Return a bundled pin."""
    return replace(Pin(name=name, version=version, fate=Fate.BUNDLED), **more)  # type: ignore[arg-type]


def listed(filename: str, **more: object) -> IndexFile:
    """Return what an index says of a file."""
    stem = filename.removesuffix(".tar.gz").removesuffix(".zip")
    name, version = stem.split("-")[:2]
    plain = IndexFile(
        project=name, version=version, filename=filename, url=f"https://i/{filename}", sha256="", size=0,
        requires_python="", yanked=False, has_metadata=False, upload_time="",
    )  # fmt: skip
    return replace(plain, **more)  # type: ignore[arg-type]


CHOICES = {
    "the newest manylinux wins over an older one": (
        ["x-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", "x-1.0-cp313-cp313-manylinux_2_28_x86_64.whl"],
        "x-1.0-cp313-cp313-manylinux_2_28_x86_64.whl",
    ),
    "a glibc newer than the image's is passed over": (
        ["x-1.0-cp313-cp313-manylinux_2_39_x86_64.whl", "x-1.0-cp313-cp313-manylinux2014_x86_64.whl"],
        "x-1.0-cp313-cp313-manylinux2014_x86_64.whl",
    ),
    "compiled for this Python before stable ABI before pure": (
        ["x-1.0-py3-none-any.whl", "x-1.0-cp39-abi3-manylinux_2_17_x86_64.whl", "x-1.0-cp313-cp313-manylinux_2_17_x86_64.whl"],
        "x-1.0-cp313-cp313-manylinux_2_17_x86_64.whl",
    ),
    "the higher build number": (
        ["x-1.0-1-py3-none-any.whl", "x-1.0-10-py3-none-any.whl", "x-1.0-py3-none-any.whl"],
        "x-1.0-10-py3-none-any.whl",
    ),
    "other Pythons, systems and machines do not count": (
        ["x-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "x-1.0-cp313-cp313t-manylinux_2_17_x86_64.whl",
         "x-1.0-cp313-cp313-win_amd64.whl", "x-1.0-cp313-cp313-musllinux_1_2_x86_64.whl",
         "x-1.0-cp313-cp313-manylinux_2_17_aarch64.whl"],
        None,
    ),
    "an sdist where no wheel fits": (["x-1.0-cp311-cp311-win_amd64.whl", "x-1.0.zip", "x-1.0.tar.gz"], "x-1.0.tar.gz"),
    "a zip sdist where it is all there is": (["x-1.0.zip"], "x-1.0.zip"),
    "another version is another file": (["x-1.1-py3-none-any.whl", "x-1.0.1.tar.gz"], None),
    "eggs, installers and invalid names are no choice": (
        ["x-1.0-py3.13.egg", "x-1.0.win-amd64.exe", "x-1.0-whl.whl", "x-1.0.tar.bz2"], None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_the_best_file_for_the_image(case: str) -> None:
    """The file is chosen for the image's Python, platform and glibc, in whatever order it is listed."""
    names, expected = CHOICES[case]
    for order in (names, names[::-1]):
        found = choose_file([listed(name) for name in order], "1.0", (), IMAGE)
        assert (found.filename if found else None) == expected


def test_requires_python_is_held_against_the_full_version() -> None:
    """3.13.5 is not 3.13.6: a file that wants more is passed over, an unreadable wish forbids nothing."""
    files = [listed("x-1.0-py3-none-any.whl", requires_python=">=3.13.6")]
    assert choose_file(files, "1.0", (), IMAGE) is None
    for wish in (">=3.13.5", "<4", ">=3.5.*, garbage"):
        assert choose_file([replace(files[0], requires_python=wish)], "1.0", (), IMAGE)


def test_yanked_files_are_the_last_resort() -> None:
    """A yanked file is taken only where nothing else of the pinned version fits."""
    best = listed("x-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", yanked=True)
    plain = listed("x-1.0-py3-none-any.whl")
    assert choose_file([best, plain], "1.0", (), IMAGE) == plain
    assert choose_file([best], "1.0", (), IMAGE) == best


def test_only_frozen_files_count() -> None:
    """With hashes, a better file that is not among them is passed over."""
    better = listed("x-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", sha256="b" * 64)
    frozen = listed("x-1.0-py3-none-any.whl", sha256="a" * 64)
    assert choose_file([better, frozen], "1.0", ["sha256:" + "a" * 64], IMAGE) == frozen


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_file_name_makes_choosing_fail(names: list[str]) -> None:
    """Whatever stands on an index page, choosing answers."""
    files = [
        replace(listed("x-1.0.zip"), filename=name + end) for name in names for end in ("", ".whl", ".tar.gz")
    ]
    found = choose_file(files, "1.0", (), IMAGE)
    assert found is None or found.filename.endswith((".whl", ".tar.gz", ".zip"))


def test_versions_are_compared_not_spelled(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """1.0 pinned is 1.0.0 on the index; 1.0+cpu is another version."""
    index.add(make_wheel(tmp_path, "x", "1.0.0"))
    index.add(make_wheel(tmp_path, "x", "1.0+cpu"))
    house = fetch_wheelhouse([pin("x", "1.0"), pin("x", "1.0+cpu")], IMAGE, asking(index, cache))
    assert [wheel.filename for wheel in house.wheels] == [
        "x-1.0+cpu-py3-none-any.whl",
        "x-1.0.0-py3-none-any.whl",
    ]


def test_what_travels_is_fetched_and_hashed(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """Bundled pins and spares become verified files; provided and skipped pins do not."""
    good = index.add(make_wheel(tmp_path, "left", "1.0"))
    index.add(make_wheel(tmp_path, "spare", "1.0"))
    index.add(make_sdist(tmp_path, "right", "1.0"))
    pins = [
        pin("left", hashes=(f"sha256:{good.sha256}",)),
        pin("right"),
        pin("spare", fate=Fate.PROVIDED, spare=True),
        pin("numpy", fate=Fate.PROVIDED),
        pin("nvidia-nccl", fate=Fate.SKIPPED),
    ]
    house = fetch_wheelhouse(pins, IMAGE, asking(index, cache))
    assert [wheel.name for wheel in house.wheels] == ["left", "spare"]
    assert [sdist.filename for sdist in house.sdists] == ["right-1.0.tar.gz"]
    for artifact in (*house.wheels, *house.sdists):
        data = artifact.path.read_bytes()
        assert (artifact.sha256, artifact.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_the_second_call_needs_no_network(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """With a warm cache nothing is asked: the index may be gone."""
    entry = index.add(make_wheel(tmp_path, "left", "1.0"))
    pins = [pin("left", hashes=(f"sha256:{entry.sha256}",))]
    first = fetch_wheelhouse(pins, IMAGE, asking(index, cache))
    assert fetch_wheelhouse(pins, IMAGE, asking(unreachable(), cache)) == first


def test_another_image_is_another_choice(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """What was chosen for one Python is not handed to another."""
    for python in ("cp312", "cp313"):
        index.add(make_wheel(tmp_path, "left", "1.0", tag=f"{python}-{python}-manylinux_2_17_x86_64"))
    hashes = tuple(f"sha256:{entry.sha256}" for entry in index.projects["left"].values())
    names = [
        fetch_wheelhouse([pin("left", hashes=hashes)], image, asking(index, cache)).wheels[0].filename
        for image in (IMAGE, replace(IMAGE, python="3.12.13"))
    ]
    assert ["cp313" in names[0], "cp312" in names[1]] == [True, True]


def test_the_running_interpreter_does_not_matter(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """A wheel that only the running Python could use is not taken."""
    here = next(tag for tag in sys_tags() if "linux" in tag.platform and "musl" not in tag.platform)
    index.add(make_wheel(tmp_path, "left", "1.0", tag=str(here)))
    other = replace(IMAGE, python="3.99.0")
    with pytest.raises(ProjectError):
        fetch_wheelhouse([pin("left")], other, asking(index, cache))


def test_a_cut_download_goes_on_where_it_stopped(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """After a broken connection only the rest is asked for, and the file is whole."""
    entry = index.add(make_wheel(tmp_path, "big", "1.0", files={"big.bin": bytes(range(256)) * 4000}))
    index.cut(entry.filename, after=500_000)
    house = fetch_wheelhouse([pin("big")], IMAGE, asking(index, cache))
    assert house.wheels[0].sha256 == entry.sha256
    ranges = [headers.get("Range") for path, headers in index.requests if path.endswith(entry.filename)]
    assert ranges[0] is None
    assert str(ranges[1]).startswith("bytes=")


def test_half_a_file_survives_the_run_that_lost_it(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """A run that gives up leaves a part, never a blob; the next run asks for the rest alone."""
    entry = index.add(make_wheel(tmp_path, "big", "1.0", files={"big.bin": bytes(range(256)) * 4000}))
    cache.partial_path(entry.sha256).write_bytes(entry.data[:300_000])
    house = fetch_wheelhouse([pin("big")], IMAGE, asking(index, cache))
    assert house.wheels[0].path.read_bytes() == entry.data
    asked = [headers.get("Range") for path, headers in index.requests if path.endswith(entry.filename)]
    assert asked == ["bytes=300000-"]
    assert not cache.partial_path(entry.sha256).exists()


def test_control_c_ends_a_run_at_once(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """A process that waits for a bad connection ends within seconds of SIGINT; what came stays as a part."""
    entry = index.add(make_wheel(tmp_path, "big", "1.0", files={"big.bin": bytes(range(256)) * 80_000}))
    index.cut(entry.filename, after=300_000, times=math.inf)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.packages.test_wheelhouse import *\n"
        "cache = Cache(Path(sys.argv[2]))\n"
        "fetch_wheelhouse([pin('big')], IMAGE, asking(sys.argv[1], cache))\n"
    )
    command = [sys.executable, "-c", script, index.url, str(cache.root)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    while len(index.asked(entry.filename)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=5)
    assert "KeyboardInterrupt" in said
    assert cache.find_blob(entry.sha256) is None
    assert cache.partial_path(entry.sha256).stat().st_size >= 300_000


def test_a_corrupted_blob_is_fetched_again(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """A cache file that changed on disk is noticed and replaced."""
    entry = index.add(make_wheel(tmp_path, "left", "1.0"))
    pins = [pin("left", hashes=(f"sha256:{entry.sha256}",))]
    fetch_wheelhouse(pins, IMAGE, asking(index, cache))
    cache.blob_path(entry.sha256).write_bytes(b"!" * len(entry.data))
    house = fetch_wheelhouse(pins, IMAGE, asking(index, cache))
    assert house.wheels[0].path.read_bytes() == entry.data


def test_wrong_bytes_are_refused(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """A file that is not what the index promised is an error that names it, and stays nowhere."""
    entry = index.add(make_wheel(tmp_path, "left", "1.0"))
    index.lie_about_hash(entry.filename)
    with pytest.raises(ProjectError) as caught:
        fetch_wheelhouse([pin("left")], IMAGE, asking(index, cache))
    assert entry.filename in caught.value.what
    assert not list((cache.root / "blobs").rglob("*"))
    assert not list((cache.root / "parts").rglob("*.part"))


def test_files_that_are_not_the_frozen_ones_are_said(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """The same version with other bytes is an error with --upgrade as its remedy, and nothing is fetched."""
    entry = index.add(make_wheel(tmp_path, "left", "1.0"))
    with pytest.raises(ProjectError) as caught:
        fetch_wheelhouse([pin("left", hashes=("sha256:" + "1" * 64,))], IMAGE, asking(index, cache))
    assert "hash" in " ".join(caught.value.details)
    assert "--upgrade" in caught.value.hint
    assert not index.asked(entry.filename)


def test_everything_that_does_not_fit_is_said_at_once(
    index: LocalIndex, cache: Cache, tmp_path: Path
) -> None:
    """One error names each package and what there is of it; nothing is downloaded."""
    good = index.add(make_wheel(tmp_path, "good", "1.0"))
    index.add(make_wheel(tmp_path, "old", "1.0", tag="cp312-cp312-manylinux_2_17_x86_64"))
    index.add(make_wheel(tmp_path, "old", "1.2", tag="cp313-cp313-manylinux_2_17_x86_64"))
    index.add(make_wheel(tmp_path, "new", "1.0"), requires_python=">=3.14")
    pins = [pin("good"), pin("old", asked_by=("-r requirements.in",)), pin("new"), pin("gone")]
    with pytest.raises(ProjectError) as caught:
        fetch_wheelhouse(pins, IMAGE, asking(index, cache))
    error = caught.value
    text = "\n".join(error.details)
    assert "'old==1.0', 'new==1.0', 'gone==1.0'" in error.what
    assert "Python 3.13.5, x86_64, glibc 2.35" in error.what
    assert "cp312 on manylinux_2_17_x86_64" in text
    assert "old 1.0, required by -r requirements.in:" in text
    assert "they require Python >=3.14" in text
    assert "no index has a file of it" in text
    assert "exclude" in error.hint
    assert not index.asked(good.filename)


def test_an_index_that_does_not_answer_is_an_outside_error(cache: Cache) -> None:
    """Without a network and with a cold cache the error is the network's, not the package's."""
    with pytest.raises(OutsideError):
        fetch_wheelhouse([pin("left")], IMAGE, asking(unreachable(), cache))


def test_one_failing_download_keeps_the_others(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """What came in whole before an error is not fetched again."""
    good = index.add(make_wheel(tmp_path, "good", "1.0"))
    bad = index.add(make_wheel(tmp_path, "bad", "1.0"))
    index.fail(bad.filename, 404, times=math.inf)
    with pytest.raises(OutsideError):
        fetch_wheelhouse([pin("good"), pin("bad")], IMAGE, asking(index, cache))
    index.faults.clear()
    fetch_wheelhouse([pin("good"), pin("bad")], IMAGE, asking(index, cache))
    assert len(index.asked(good.filename)) == 1


def test_two_runs_at_once_download_once(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """Two builds that want one file share the download."""
    entry = index.add(make_wheel(tmp_path, "left", "1.0"))
    index.stall(entry.filename, seconds=0.5)
    houses: list[Wheelhouse] = []

    def run() -> None:
        houses.append(fetch_wheelhouse([pin("left")], IMAGE, asking(index, cache)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert houses[0] == houses[1]
    assert len(index.asked(entry.filename)) == 1


def test_one_bar_counts_all_bytes(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """One bar over the bytes of all downloads, filled to its end."""
    entries = [index.add(make_wheel(tmp_path, name, "1.0")) for name in ("a", "b", "c")]
    listener = Listener()
    fetch_wheelhouse([pin(name) for name in ("a", "b", "c")], IMAGE, asking(index, cache), report=listener)
    ((total, amounts),) = listener.bars
    assert total == sum(amounts) == sum(len(entry.data) for entry in entries)
    assert any("3 files" in text for text in listener.said)


def test_a_withdrawn_file_is_warned_of(index: LocalIndex, cache: Cache, tmp_path: Path) -> None:
    """A pinned version that was yanked is used, and said."""
    index.add(make_wheel(tmp_path, "left", "1.0"), yanked="broken on Mondays")
    listener = Listener()
    assert fetch_wheelhouse([pin("left")], IMAGE, asking(index, cache), report=listener).wheels
    assert any("yanked" in text for text in listener.said)


def test_local_wheels_pass_through(cache: Cache, tmp_path: Path) -> None:
    """A wheel on this disk is used where it lies, no index asked."""
    path = make_wheel(tmp_path, "mine", "1.0")
    house = fetch_wheelhouse([pin("mine", local=path)], IMAGE, asking(unreachable(), cache))
    assert house.wheels[0].path == path
    assert house.wheels[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
