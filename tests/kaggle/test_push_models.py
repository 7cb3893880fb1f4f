"""A part of a kit as a private Kaggle Model, against the local Kaggle."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline_kit.core.errors import ProjectError, UsageError
from offline_kit.kaggle.client.api_types import Account, NotebookSources
from offline_kit.kaggle.client.client import KaggleClient, framework_name
from offline_kit.kaggle.push import kit_parts, push_notebook, push_parts
from offline_kit.kaggle.push.journal import Phase
from offline_kit.kaggle.push.part_targets import PartPlan, PushAction
from offline_kit.kaggle.push.push_parts import DEFAULT_OPTIONS, PushOptions
from offline_kit.local_kaggle.faults import Fault
from offline_kit.project.types import Kit, KitPart
from tests.support import command_line
from tests.support.local_kaggle import Bench
from tests.support.notebooks import written
from tests.support.pushing import FILES, access, make_kit, ways
from tests.support.shipping import Yard, make_project, retrain, yard

REF = "alice/plant-weights/other/checkpoints"
CHANGED = {**FILES, "checkpoints/model.ckpt": b"W" * 300_000}


def weights(kit: Kit) -> KitPart:
    """Return the part that goes to the model."""
    (part,) = [each for each in kit.parts if each.name == "checkpoints"]
    return part


MODEL = {"checkpoints": f"model:{REF}/0"}


def pushed(bench: Bench, kit: Kit, kaggle: KaggleClient, wishes: PushOptions = DEFAULT_OPTIONS) -> PartPlan:
    """Push the checkpoints of a kit."""
    (done,) = push_parts.push_kit(kit, MODEL, access(kaggle, ways(bench)), wishes)
    return done


def source(done: PartPlan) -> str:
    """Return a version as a notebook attaches it."""
    return f"{done.ref}/{done.version}"


def content(bench: Bench, version: str) -> dict[str, bytes]:
    """Return what a notebook would find of a version."""
    found = bench.kaggle.models.mounted_version(version, "alice")
    assert found
    files = [path for path in found[1].rglob("*") if path.is_file()]
    return {path.relative_to(found[1]).as_posix(): path.read_bytes() for path in files}


def made(bench: Bench) -> tuple[int, ...]:
    """Return how many models, variations and versions the server was asked to make."""
    calls = ("/CreateModel", "/CreateModelInstance", "/CreateModelInstanceVersion")
    return tuple(len(bench.traffic.ended_requests(call)) for call in calls)


def test_the_first_push_makes_a_private_model(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Model, variation and its first version are made once, private, with every byte and the marker."""
    kit = make_kit(tmp_path / "kit", split=True)
    done = pushed(bench, kit, alice)
    assert (source(done), done.action) == (f"{REF}/1", PushAction.CREATE)
    folder = kit.part_folder(weights(kit))
    there = content(bench, source(done))
    assert there == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    model = alice.get_model("alice/plant-weights")
    assert model
    assert model.private
    assert made(bench) == (1, 1, 0)


def test_the_same_part_is_not_sent_again(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """With the marker of this part in the newest version nothing is uploaded, and the version stays pinned."""
    kit = make_kit(tmp_path / "kit", split=True)
    pushed(bench, kit, alice)
    before = bench.traffic.uploaded_bytes()
    done = pushed(bench, kit, alice)
    assert (source(done), done.action) == (f"{REF}/1", PushAction.NOTHING)
    assert bench.traffic.uploaded_bytes() == before
    assert made(bench) == (1, 1, 0)


def test_changed_checkpoints_are_a_new_version(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Only a version is added, and the earlier one stays as it was for the notebooks that pin it."""
    first = make_kit(tmp_path / "first", split=True)
    pushed(bench, first, alice)
    before = content(bench, f"{REF}/1")
    done = pushed(bench, make_kit(tmp_path / "second", CHANGED, split=True), alice)
    assert (source(done), done.action) == (f"{REF}/2", PushAction.VERSION)
    assert content(bench, f"{REF}/1") == before
    assert content(bench, f"{REF}/2")["checkpoints/model.ckpt"] == CHANGED["checkpoints/model.ckpt"]
    assert made(bench) == (1, 1, 1)


@pytest.mark.parametrize("call", ["CreateModel", "CreateModelInstance"])
def test_a_lost_answer_is_settled_by_looking(
    bench: Bench, alice: KaggleClient, tmp_path: Path, call: str
) -> None:
    """What happened without an answer is seen, and made once."""
    bench.kaggle.faults.add_fault(Fault(on=call, lose_answer=True))
    kit = make_kit(tmp_path / "kit", split=True)
    assert source(pushed(bench, kit, alice)) == f"{REF}/1"
    assert pushed(bench, kit, alice).action is PushAction.NOTHING
    assert bench.kaggle.models.mounted_version(f"{REF}/2", "alice") is None


def test_an_interrupted_push_goes_on(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A run that never saw its version looks for it first, and sends nothing twice."""
    kit = make_kit(tmp_path / "kit", split=True)
    pushed(bench, kit, alice)
    journal = ways(bench).effect_journal
    last = [each for each in journal.read_entries() if each.effect.action == "variation"][-1]
    journal.append_entry(last.effect, Phase.BEGUN)
    assert pushed(bench, kit, alice).action is PushAction.NOTHING
    phases = [each.phase for each in journal.read_entries() if each.effect == last.effect]
    assert phases == [Phase.BEGUN, Phase.ANSWERED, Phase.DONE, Phase.BEGUN, Phase.DONE]
    assert made(bench) == (1, 1, 0)


def test_no_licence_is_named(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """A name that Kaggle does not know would be refused, and a private model needs none."""
    pushed(bench, make_kit(tmp_path / "kit", split=True), alice)
    owner, model, framework, variation = REF.split("/")
    asked = {"ownerSlug": owner, "modelSlug": model, "instanceSlug": variation}
    asked["framework"] = framework_name(framework)
    assert bench.rpc("models.ModelApiService/GetModelInstance", **asked).get("licenseName", "") == ""


def test_a_public_model_is_never_written_to(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """Everybody would see the checkpoints; --public allows it."""
    bench.rpc(
        "models.ModelApiService/CreateModel",
        ownerSlug="alice",
        slug="plant-weights",
        title="Plants",
        isPrivate=False,
    )
    kit = make_kit(tmp_path / "kit", split=True)
    with pytest.raises(ProjectError, match="public"):
        pushed(bench, kit, alice)
    assert made(bench)[1] == 0
    assert source(pushed(bench, kit, alice, PushOptions(public=True))) == f"{REF}/1"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("model:bob/plants-x/other/checkpoints/0", "belongs to 'bob'"),
        ("model:alice/Plants!/other/checkpoints/0", "'Plants!'"),
    ],
)
def test_names_that_cannot_be(wanted: str, says: str) -> None:
    """A model of somebody else and a slug that Kaggle would not take are refused beforehand."""
    with pytest.raises(UsageError) as caught:
        push_parts.resolve_locations({"checkpoints": wanted}, Account(username="alice", auth_method=""))
    assert (caught.value.code, says in caught.value.what) == ("model-name-invalid", True)


def test_the_notebook_pins_exactly_that_version(bench: Bench, alice: KaggleClient, tmp_path: Path) -> None:
    """The version goes into the kit's metadata, takes the place of the one before, and is attached and mounted."""
    kit = written(
        make_kit(tmp_path / "kit", split=True),
        "import os; print([f for _, _, fs in os.walk(os.environ['INPUT'], followlinks=True) for f in fs if 'ckpt' in f])",
        dataset_sources=[],
        model_sources=["bob/other/pyTorch/base/1", "somebody/plant-weights/other/checkpoints/7"],
    )
    push_notebook.pin_model(kit, source(pushed(bench, kit, alice)))
    told = json.loads((kit.folder / "notebook" / "kernel-metadata.json").read_text())
    assert told["model_sources"] == ["bob/other/pyTorch/base/1", f"{REF}/1"]
    mine = dataclasses.replace(
        push_notebook.read_notebook(kit, "alice"), sources=NotebookSources(models=(f"{REF}/1",))
    )
    done = push_notebook.push_notebook(mine, access(alice, ways(bench)))
    bench.until(
        lambda: (run := alice.get_notebook_run(done.notebook.ref, 1)) is not None and run.state == "complete"
    )
    assert alice.get_run_log(done.notebook.ref, 1).text == "['model.ckpt']\n"
    assert kit_parts.find_missing_parts(
        {"checkpoints": weights(kit).id, "code": "0"}, mine.sources, access(alice, ways(bench))
    ) == {"code": "0"}


@pytest.mark.parametrize(
    ("framework", "word"),
    [
        ("other", "OTHER"),
        ("pyTorch", "PY_TORCH"),
        ("tensorFlow2", "TENSOR_FLOW_2"),
        ("scikitLearn", "SCIKIT_LEARN"),
    ],
)
def test_frameworks_as_requests_name_them(framework: str, word: str) -> None:
    """The word in a handle becomes the member of Kaggle's enumeration."""
    assert framework_name(framework) == f"MODEL_FRAMEWORK_{word}"


@pytest.mark.parametrize("status", [404, 500])
@pytest.mark.parametrize("method", ["DownloadModelInstanceVersion", "ListModelInstanceVersionFiles"])
def test_a_fresh_version_may_be_hidden_or_unanswered_for_a_while(
    bench: Bench, alice: KaggleClient, tmp_path: Path, method: str, status: int
) -> None:
    """Longer than a single question is asked again: the push waits, then ends as if nothing had been."""
    bench.kaggle.faults.add_fault(Fault(on=method, status=status, times=6, message="Not found"))
    assert source(pushed(bench, make_kit(tmp_path / "kit", split=True), alice)) == f"{REF}/1"


# ------------------------------------------------------------------ as a user does


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Yard]:
    """A project whose checkpoint is to be a model, and a local Kaggle with its competition."""
    project = make_project(tmp_path / "one" / "project", more='publish_model = "small-weights"\n')
    with yard(tmp_path, project) as made:
        yield made


MINE = "local/small-weights/other/checkpoints"


@pytest.mark.slow
def test_ship_names_framework_and_variation(tmp_path: Path) -> None:
    """As Kaggle's page of a model has them, in any case; the notebook attaches that variation."""
    project = make_project(
        tmp_path / "one" / "project", more='publish_model = "small-weights/PYTORCH/folds"\n'
    )
    with yard(tmp_path, project) as here:
        parts = here.ship("--json").good().facts["parts"]
        assert "local/small-weights/pyTorch/folds" in {each["dataset"] for each in parts}
        assert pinned(here, 1) == ["local/small-weights/pyTorch/folds/1"]
        before = here.uploaded()
        here.ship().good()
        assert (here.uploaded(), here.notebooks()) == (before, [1])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("a-model/torch/folds", "pyTorch"),
        ("a/b/c/d/e", "slug/framework/variation"),
        ("a-model//folds", "slug/framework/variation"),
        ("a-model/pyTorch/my folds", "'my folds'"),
    ],
)
def test_a_variation_that_kaggle_has_not_is_refused_at_once(tmp_path: Path, said: str, words: str) -> None:
    """By every command, with the words that are right."""
    (tmp_path / "offline-kit.toml").write_text(f'image = "local"\npublish_model = "{said}"\n')
    done = command_line.offline_kit("build", str(tmp_path))
    assert done.returncode == 2
    assert "publish_model" in done.stderr
    assert words in " ".join(done.stderr.split())


def pinned(here: Yard, version: int) -> list[str]:
    """Return the models that a version of the notebook has attached."""
    record = here.bench.kaggle.store.read("kernels", "local", "project-inference", "versions", str(version))
    assert record
    return list(record["modelDataSources"])


@pytest.mark.parametrize("words", [(), ("--no-wait",)])
def test_push_attaches_the_version_that_it_made(here: Yard, words: tuple[str, ...]) -> None:
    """The notebook of the very same push is pinned to the model's new version."""
    here.push(*words).good()
    assert pinned(here, 1) == [f"{MINE}/1"]


@pytest.mark.slow
def test_ship_with_the_checkpoints_as_a_model(here: Yard) -> None:
    """To the score: the code is a dataset, the checkpoint a model at a pinned version; then nothing again."""
    first = here.ship("--json").good().facts
    assert {each["dataset"] for each in first["parts"]} == {
        "local/small-kit-code",
        MINE,
    }
    assert pinned(here, 1) == [f"{MINE}/1"]
    assert here.calls("CreateModelInstance") == 1
    before = here.uploaded()
    here.ship().good()
    assert (here.uploaded(), here.notebooks(), len(here.submissions())) == (before, [1], 1)

    # A build of the same checkpoints keeps the pin, so that what is there is known without a push.
    here.run("build").good()
    assert "nothing" in str(here.push("--dry-run", "--json").good().facts["notebook"])

    data = retrain(here.project, b"2")
    here.push("--json").good()
    assert pinned(here, 2) == [f"{MINE}/2"]
    assert pinned(here, 1) == [f"{MINE}/1"]
    found = here.bench.kaggle.models.mounted_version(f"{MINE}/2", "local")
    assert found
    assert (found[1] / "checkpoints" / "model.ckpt").read_bytes() == data
    assert here.datasets("local/small-kit-code") == [1]


@pytest.mark.slow
def test_the_pinned_version_is_shown_and_verified(here: Yard) -> None:
    """`status` and `verify` look at the version that the notebook is pinned to, whatever came after it."""
    here.run("build").good()
    said = here.run("verify", *here.to).failed(1, f"the version of the model '{MINE}' does not exist")
    assert "offline-kit push" in said.out
    assert f"{MINE}: not on this Kaggle" in here.run("status", *here.to).good().out
    here.push().good()
    for words in ((), here.to):
        assert f"{MINE} version 1" in here.run("status", *words).good().out
    found = here.run("verify", *here.to, "--json").good().facts
    (weights,) = [part for part in found["parts"] if part["part"] == "checkpoints"]
    told = {"kind": "model", "dataset": MINE, "version": 1, "private": True, "state": "ready"}
    assert {key: weights[key] for key in told} == told

    there = here.bench.kaggle.models.mounted_version(f"{MINE}/1", "local")
    assert there
    (there[1] / "checkpoints" / "model.ckpt").unlink()
    said = here.run("verify", *here.to).failed(1, "'checkpoints/model.ckpt' is missing")
    assert "--resend' to upload the same files as a new version" in said.out
    here.push("--resend").good()
    assert here.run("verify", *here.to, "--json").good().facts["parts"][0]["version"] == 2


def test_packages_that_were_made_elsewhere_are_not_pushed_around(here: Yard) -> None:
    """A wheelhouse on another Kaggle, or of another account, is told before anything is sent."""
    here.run("build").good()
    away = {
        "notebook": "ann/small-wheelhouse",
        "version": 1,
        "asked": "a",
        "part": "p" * 64,
        "image": "i" * 64,
    }
    (here.project / "offline-kit.wheelhouse.json").write_text(
        json.dumps({"format": 1, **away, "files": 2, "local": False})
    )
    here.push("--no-build").failed(1, "made on Kaggle by 'ann'", "build --on local")
    assert here.uploaded() == 0
