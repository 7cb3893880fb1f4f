"""The machine that a notebook was made for: taken over, or asked for where it cannot be."""

import json
from pathlib import Path

import pytest

from offline_kit.adopt.adoption_plan import AdoptionPlan, plan_adoption
from offline_kit.adopt.findings import ExternalNeed, NeedKind, Outcome
from tests.support.adopting import notebook_of


def proposed(folder: Path, shape: str, config: str = "") -> AdoptionPlan:
    """Adopt a notebook whose metadata asks for a machine."""
    (folder / "kernel-metadata.json").write_text(json.dumps({"machine_shape": shape, "enable_gpu": True}))
    if config:
        (folder / "offline-kit.toml").write_text(config)
    return plan_adoption(notebook_of(folder, "x = 1"), folder)


def machine(proposal: AdoptionPlan) -> list[ExternalNeed]:
    """Return what was found about it."""
    return [
        one
        for one in proposal.adoption.resolved
        if one.kind is NeedKind.SETTING and one.text == "accelerator"
    ]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("TpuV5E8", "is a TPU"),
        ("Tpu1VmV38", "is a TPU"),
        ("foo", "unknown accelerator 'foo'"),
        ("NvidiaTeslaP100", "retired"),
        ("NvidiaTeslaT4Highmem", "administrators"),
    ],
)
def test_a_machine_that_cannot_be_had_is_asked_about(tmp_path: Path, shape: str, said: str) -> None:
    """It does not become the CPU without a word, and the answer in the configuration ends the question."""
    first = proposed(tmp_path, shape)
    (found,) = machine(first)
    assert (found.resolution, found.position) == (Outcome.UNRESOLVED, "kernel-metadata.json")
    assert said in found.remedy
    assert "`accelerator`" in found.remedy
    assert "accelerator =" not in first.config.new
    assert machine(proposed(tmp_path, shape, 'accelerator = "none"\n')) == []


def test_a_machine_that_can_be_had_is_kept(tmp_path: Path) -> None:
    """It goes into the configuration, with where it was said."""
    proposal = proposed(tmp_path, "NvidiaL4")
    assert [one.resolution for one in machine(proposal)] == [Outcome.UNCHANGED]
    assert 'accelerator = "NvidiaL4"' in proposal.config.new
    assert "from kernel-metadata.json" in proposal.config.new


def test_the_notebooks_own_metadata_is_called_so(tmp_path: Path) -> None:
    """Nothing names a file that is not there."""
    path = notebook_of(tmp_path, "x = 1")
    whole = json.loads(path.read_text())
    whole["metadata"]["kaggle"] = {"accelerator": "nvidiaTeslaT4", "isInternetEnabled": True}
    path.write_text(json.dumps(whole))
    proposal = plan_adoption(path, tmp_path)
    assert "kernel-metadata.json" not in proposal.config.new
    assert "from the notebook's own metadata" in proposal.config.new
    assert {one.position for one in proposal.adoption.resolved} == {"the notebook's own metadata"}
