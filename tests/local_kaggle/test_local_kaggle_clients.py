"""What Kaggle's own test suites ask of the service, asked of the local Kaggle by the unmodified client and kagglehub."""

import csv
import io
import json
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from offline_kit.local_kaggle.settings import LocalKaggleSettings
from tests.support.competitions import competition
from tests.support.hub_client import hub, needs_hub
from tests.support.local_kaggle import Bench, needs_client, notebook, serving
from tests.support.warm_python import client_python

MODEL = "alice/my-model/pyTorch/base"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path) as made:
        yield made


def api(bench: Bench, code: str, user: str = "alice") -> Any:
    """Run code with Kaggle's client logged in as `api`; return what it gives to `tell`."""
    head = "import json\nfrom kaggle import api\ndef tell(it): print('GOT ' + json.dumps(it))\n"
    done = subprocess.run(
        [client_python(), "-c", head + code],
        env=bench.environment(user),
        cwd=bench.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("GOT ")][-1][4:])


def dataset(bench: Bench, slug: str, files: dict[str, bytes], user: str = "alice", **more: Any) -> None:
    """Create a public dataset that is READY."""
    words = {"ownerSlug": user, "slug": slug, "title": f"About {slug}", "licenseName": "CC0-1.0"}
    made = bench.rpc("CreateDataset", user, files=bench.upload(files, user), **{**words, **more})
    assert made["status"] == "Ok", made
    bench.ready(f"{user}/{slug}")


@needs_client
def test_lists_of_datasets_are_filtered_and_sorted(bench: Bench) -> None:
    """Every option of `kaggle datasets list` lets through what it names, and nothing else."""
    dataset(bench, "small-birds", {"a.csv": b"1"}, categoryIds=["birds", "europe"], subtitle="Song of owls")
    dataset(bench, "large-birds", {"a.json": b"1" * 5000}, licenseName="GPL-2", categoryIds=["birds"])
    dataset(bench, "own-fishes", {"a.txt": b"1" * 300}, "bob", licenseName="ODbL-1.0")
    asked: Sequence[dict[str, Any]] = [
        {},
        {"mine": True},
        {"user": "bob"},
        {"user": "nobody"},
        {"search": "OWLS song"},
        {"tag_ids": "birds"},
        {"tag_ids": "birds,europe"},
        {"license_name": "cc"},
        {"license_name": "gpl"},
        {"license_name": "odb"},
        {"license_name": "other"},
        {"file_type": "csv"},
        {"file_type": "json"},
        {"max_size": 300, "min_size": 2},
        {"sort_by": "published"},
        {"sort_by": "updated", "page_size": 1, "page": 2},
    ]
    code = f"tell([[d.ref.split('/')[1] for d in api.dataset_list_with_response(**words).datasets] for words in {asked!r}])"
    small, large, fishes = "small-birds", "large-birds", "own-fishes"
    assert api(bench, code) == [
        *([large, small, fishes], [large, small], [fishes], [], [small], [large, small], [small]),
        *([small], [large], [fishes], [], [small], [large], [fishes]),
        *([fishes, large, small], [large]),
    ]


@needs_client
def test_lists_of_notebooks_are_filtered_and_sorted(bench: Bench) -> None:
    """By user, language, type, dataset, competition, and by when they were made or run."""
    dataset(bench, "some-birds", {"a.csv": b"1"})
    bench.kaggle.catalog.add_competition(competition(bench.folder))
    common: dict[str, Any] = {"isPrivate": False, "enableInternet": False}
    text = json.dumps(notebook("open('out.csv', 'w').write('1')"))
    first = {"slug": "alice/first-one", "newTitle": "First one", "kernelType": "notebook", "text": text}
    bench.rpc("SaveKernel", **first, language="python", datasetDataSources=["alice/some-birds"], **common)
    second = {"slug": "bob/second-one", "newTitle": "Second one", "kernelType": "script", "text": "1"}
    competitions = {"competitionDataSources": ["small-digits"]}
    bench.rpc("SaveKernel", "bob", **second, language="r", **competitions, **common)
    ask = {"userName": "alice", "kernelSlug": "first-one"}
    bench.until(lambda: bench.rpc("GetKernelSessionStatus", **ask).get("status") == "COMPLETE")
    asked: Sequence[dict[str, Any]] = [
        {"sort_by": "dateCreated"},
        {"sort_by": "dateRun", "mine": True},
        {"user": "bob"},
        {"language": "python"},
        {"language": "julia"},
        {"kernel_type": "script"},
        {"dataset": "alice/some-birds"},
        {"competition": "small-digits"},
        {"competition": "titanic"},
        {"search": "second"},
    ]
    code = f"tell([[k.ref.split('/')[0] for k in api.kernels_list(**words)] for words in {asked!r}])"
    alice, bob = ["alice"], ["bob"]
    assert api(bench, code) == [*(["bob", "alice"], alice, bob, alice, [], bob, alice, bob, [], bob)]


@needs_client
def test_lists_of_competitions_and_models_are_filtered_and_sorted(tmp_path: Path) -> None:
    """By tab, category, owner and words; sorted by deadline or by when they were made."""
    with serving(tmp_path) as bench:
        more = {
            "late": 'category = "Getting Started"\ndeadline = 2098-01-01',
            "soon": "deadline = 2097-01-01",
            "not-mine": 'entered = false\ncategory = "Community"',
        }
        for slug, lines in more.items():
            place = competition(bench.folder / slug, f'slug = "{slug}"\n{lines}')
            bench.kaggle.catalog.add_competition(place)
        asked: Sequence[dict[str, Any]] = [
            {"group": "general", "sort_by": "earliestDeadline"},
            {"group": "general", "sort_by": "latestDeadline"},
            {"group": "entered", "sort_by": "recentlyCreated"},
            {"group": "community"},
            {"group": "hosted"},
            {"category": "gettingStarted"},
            {"category": "featured"},
            {"search": "soon"},
        ]
        code = "def of(words): return [c.ref.split('/')[-1] for c in api.competitions_list(**words).competitions]\n"
        assert api(bench, f"{code}tell([of(words) for words in {asked!r}])") == [
            *(["soon", "late"], ["late", "soon"], ["soon", "late"], ["not-mine"], [], ["late"], [], ["soon"])
        ]
        for owner, slug in (("alice", "a_model"), ("bob", "other")):
            words = {"ownerSlug": owner, "slug": slug, "title": slug, "isPrivate": False}
            bench.rpc("models.ModelApiService/CreateModel", owner, **words)
        sought = [{"owner": "bob"}, {"search": "a_model"}, {"sort_by": "createTime"}]
        code = f"tell([[m.slug for m in api.model_list(**words)] for words in {sought!r}])"
        assert api(bench, code) == [["other"], ["a_model"], ["other", "a_model"]]


@needs_client
def test_the_metadata_of_a_dataset_survives_a_round_trip(bench: Bench) -> None:
    """Keywords, subtitle, description and licence: as created, as fetched, as changed, as fetched again."""
    folder = bench.dataset({"a.csv": b"1"})
    place = folder / "dataset-metadata.json"
    said = {"keywords": ["birds"], "subtitle": "Nothing but the song of owls", "description": "All of it."}
    place.write_text(json.dumps({**json.loads(place.read_text()), **said}))
    assert bench.cli("datasets", "create", "-p", folder).returncode == 0
    bench.ready()
    fetch = (
        "place = api.dataset_metadata('alice/my-offline-kit', 'there')\ntold = json.load(open(place))\n"
        "told = json.loads(told) if isinstance(told, str) else told\ninfo = told.get('info', told)\n"
    )
    change = (
        "info |= {'keywords': ['fish'], 'subtitle': 'No owls any more', 'licenses': [{'name': 'CC-BY-4.0'}]}\n"
        "json.dump(info, open(place, 'w'))\napi.dataset_metadata_update('alice/my-offline-kit', 'there')\n"
    )
    before = api(bench, fetch + "tell(info)")
    assert {name: before[name] for name in said} == said
    assert before["licenses"] == [{"name": "CC0-1.0"}]
    after = api(bench, fetch + change + fetch + "tell(info)")
    assert (after["keywords"], after["subtitle"]) == (["fish"], "No owls any more")
    assert after["licenses"] == [{"name": "CC-BY-4.0"}]
    assert (after["description"], after["isPrivate"]) == ("All of it.", True)


@needs_client
def test_the_client_updates_a_model_and_its_variation(bench: Bench) -> None:
    """Texts survive a round trip, only what is told changes, and a slug that is taken is "already used"."""
    place = bench.folder / "model"
    place.mkdir()
    (place / "a.txt").write_text("1")
    metadata = {"ownerSlug": "alice", "title": "My model", "slug": "my-model", "isPrivate": True}
    metadata |= {"subtitle": "A subtitle", "description": "A text"}
    (place / "model-metadata.json").write_text(json.dumps(metadata))
    own: dict[str, Any] = {"ownerSlug": "alice", "modelSlug": "my-model", "instanceSlug": "base"}
    own |= {"framework": "pyTorch", "licenseName": "Apache 2.0", "overview": "Over", "usage": "Use"}
    own |= {"trainingData": ["birds"], "fineTunable": True, "modelInstanceType": "BaseModel"}
    (place / "model-instance-metadata.json").write_text(json.dumps(own))
    assert "already used" in api(
        bench, "api.model_create_new('model'); tell(api.model_create_new('model').error)"
    )
    code = "api.model_instance_create('model')\ntell(api.model_instance_create('model').error)"
    assert "already exists" in api(bench, code)
    got = "api.model_get_cli('alice/my-model', '.')\ntell(json.load(open('model-metadata.json')))"
    told = api(bench, got)
    assert {name: told[name] for name in metadata} == metadata
    (place / "model-metadata.json").write_text(
        json.dumps({"ownerSlug": "alice", "slug": "my-model", "subtitle": "Another"})
    )
    assert api(bench, "tell(api.model_update('model').ref)")
    assert api(bench, got) == {**told, "subtitle": "Another"}
    (place / "model-instance-metadata.json").write_text(
        json.dumps({**own, "overview": "Changed", "fineTunable": False, "licenseName": "MIT"})
    )
    assert api(bench, "tell(api.model_instance_update('model').ref)")
    got = f"api.model_instance_get_cli({MODEL!r}, '.')\ntell(json.load(open('model-instance-metadata.json')))"
    told = api(bench, got)
    assert (told["overview"], told["usage"], told["trainingData"]) == ("Changed", "Use", ["birds"])
    assert (told["fineTunable"], told["licenseName"]) == (False, "MIT")
    assert told["modelInstanceType"] == "base_model", "as the client writes it"
    assert bench.cli("models", "update", "-p", place, user="bob").returncode == 1


@needs_client
@needs_hub
def test_a_model_with_an_underscore_and_many_files_comes_as_a_tar(bench: Bench) -> None:
    """The client unpacks it, and kagglehub, which asks for an archive of more than 25 files."""
    place = bench.folder / "mine"
    (place / "sub").mkdir(parents=True)
    for number in range(30):
        (place / "sub" / f"{number}.txt").write_text(str(number))
    ref = "alice/my_model/keras/base_1"
    hub(bench, f"kagglehub.model_upload({ref!r}, {str(place)!r}, 'MIT')")
    which = {"ownerSlug": "alice", "modelSlug": "my_model", "framework": "MODEL_FRAMEWORK_KERAS"}
    ask = {**which, "instanceSlug": "base_1"}
    listing = "models.ModelApiService/ListModelInstanceVersionFiles"
    bench.until(lambda: bool(bench.rpc(listing, **ask).get("files")))
    (there,) = hub(bench, f"print('GOT', kagglehub.model_download({ref!r}))")
    assert Path(there, "sub/29.txt").read_text() == "29"
    words = ("models", "variations", "versions", "download", f"{ref}/1", "-p", "goal")
    assert bench.cli(*words).returncode == 0
    with tarfile.open(bench.folder / "goal/my_model.tar.gz", "r:gz") as archive:
        assert "sub/29.txt" in archive.getnames()
    done = bench.cli(*words, "--untar", "-f")
    assert done.returncode == 0, done.stderr
    assert (bench.folder / "goal/sub/29.txt").read_text() == "29"


@needs_client
@needs_hub
def test_a_large_single_file_comes_as_a_zip_of_its_name(bench: Bench) -> None:
    """As big.csv.zip to the client, which unwraps it only when told; kagglehub does it by itself."""
    data = b"a,b\n" * 300_000
    dataset(bench, "some-birds", {"big.csv": data, "small.csv": b"a\n"})
    get = ("datasets", "download", "alice/some-birds", "-p", "goal", "-f")
    assert bench.cli(*get, "big.csv").returncode == 0
    assert bench.cli(*get, "small.csv").returncode == 0
    goal = bench.folder / "goal"
    assert sorted(path.name for path in goal.iterdir()) == ["big.csv.zip", "small.csv"]
    with zipfile.ZipFile(goal / "big.csv.zip") as wrapped:
        assert wrapped.read("big.csv") == data
    code = "print('GOT', kagglehub.dataset_download('alice/some-birds', path='big.csv'))"
    assert Path(hub(bench, code)[0]).read_bytes() == data


@needs_hub
def test_a_dataset_with_a_number_takes_a_second_version(tmp_path: Path) -> None:
    """kagglehub waits for a number and then adds a version: as long as that is refused, there is none."""
    with serving(tmp_path, LocalKaggleSettings(visible_after=0.1, processing=2.0)) as bench:
        place = bench.folder / "mine"
        place.mkdir()
        (place / "a.txt").write_text("1")
        upload = f"kagglehub.dataset_upload('alice/my-kit', {str(place)!r})\n"
        code = "import time\nfrom kagglehub.clients import build_kaggle_client\n"
        code += "from kagglehub.handle import parse_dataset_handle\n"
        code += "from kagglehub.http_resolver import _get_current_version\n"
        code += "def wait():\n    for _ in range(30):\n        try:\n"
        code += "            with build_kaggle_client() as client:\n"
        code += (
            "                number = _get_current_version(client, parse_dataset_handle('alice/my-kit'))\n"
        )
        code += "            assert number, 'there, and without a number: nobody knows how long to wait'\n"
        code += "            return\n        except OSError: time.sleep(0.3)\n"
        hub(bench, f"{code}{upload}wait()\n{upload}")
        bench.ready("alice/my-kit", 2)


@needs_client
@needs_hub
def test_data_of_a_competition_is_for_who_has_accepted_its_rules(bench: Bench) -> None:
    """Both clients are told 403, for one file and for all of them."""
    bench.kaggle.catalog.add_competition(competition(bench.folder, "entered = false"))
    for words in ((), ("-f", "test.csv")):
        done = bench.cli("competitions", "download", "small-digits", *words)
        assert done.returncode == 1
        assert "403" in done.stderr
    code = "try:\n    kagglehub.competition_download('small-digits')\n"
    code += "except Exception as error: print('GOT', error.response.status_code)"
    assert hub(bench, code) == ["403"]


@needs_client
def test_the_client_reads_the_leaderboard_and_fetches_a_submission(tmp_path: Path) -> None:
    """Everybody's best score once, the best first; a file that was sent comes back to who sent it."""
    with serving(tmp_path) as bench:
        bench.kaggle.catalog.add_competition(competition(tmp_path, "code_only = false"))
        table = "id,label\nh1,1\nh3,1\nh4,0\nh2,"
        for user, answers in (("alice", ("0", "0")), ("bob", ("1", "0"))):
            for answer in answers:
                sent = bench.folder / "submission.csv"
                sent.write_text(table + answer)
                words = ("-f", sent, "-m", answer)
                done = bench.cli("competitions", "submit", "small-digits", *words, user=user)
                assert done.returncode == 0, done.stdout + done.stderr

        def states(user: str) -> list[str]:
            listed = bench.rpc("ListSubmissions", user, competitionName="small-digits")["submissions"]
            return [submission["status"] for submission in listed]

        bench.until(lambda: states("alice") == states("bob") == ["COMPLETE", "COMPLETE"])
        shown = api(
            bench,
            "tell([[row.team_name, row.score] for row in api.competition_leaderboard_view('small-digits')])",
        )
        assert shown == [["bob", "1.00000 (LOCAL)"], ["alice", "0.50000 (LOCAL)"]]
        assert bench.cli("competitions", "leaderboard", "small-digits", "-d", "-p", "board").returncode == 0
        with zipfile.ZipFile(bench.folder / "board/small-digits.zip") as packed:
            rows = list(csv.DictReader(io.StringIO(packed.read(packed.namelist()[0]).decode())))
        told = [(row["Rank"], row["TeamName"], row["SubmissionCount"]) for row in rows]
        assert told == [("1", "bob", "2"), ("2", "alice", "2")]
        newest = bench.rpc("ListSubmissions", competitionName="small-digits")["submissions"][0]
        fetch = ("competitions", "submission-download", str(newest["ref"]), "-p", "back")
        assert bench.cli(*fetch).returncode == 0
        assert (bench.folder / "back/submission.csv").read_text() == table + "0"
        assert bench.cli(*fetch, user="bob").returncode == 1


@needs_client
def test_a_retired_accelerator_is_replaced_without_a_word(bench: Bench) -> None:
    """The push succeeds, and what is read back is another one; keywords come back as they were."""
    folder = bench.notebook("1", machine_shape="NvidiaTeslaP100", enable_gpu=True, keywords=["gpu"])
    assert "successfully pushed" in bench.cli("kernels", "push", "-p", folder).stdout
    bench.until(lambda: "metadata" in bench.rpc("GetKernel", userName="alice", kernelSlug="my-inference"))
    assert bench.cli("kernels", "pull", "alice/my-inference", "-p", "back", "-m").returncode == 0
    told = json.loads((bench.folder / "back/kernel-metadata.json").read_text())
    assert told["machine_shape"] == "NvidiaTeslaT4"
    assert told["keywords"] == ["gpu"]
