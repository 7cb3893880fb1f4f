"""A recorded kit against another image; kits of packages are in test_doctor.py."""

from pathlib import Path

from offline_kit.kit import manifest
from offline_kit.project.images import Image
from offline_kit.workflow.doctor import ImageDrift, compare_with_image
from tests.support.recordings import RecordedPart


def test_a_recording_counts_on_what_its_run_replaced(tmp_path: Path) -> None:
    """Versions that the recorded run found are compared, wheels need a Python that they fit."""
    part = RecordedPart(tmp_path / "recorder")
    part.document["python"] = "3.11.4"
    part.add_wheel("timm", "1.0.19", replaces="0.9")
    part.add_wheel("lightgbm", "4.6", replaces="4.5")
    part.add_wheel("fresh")
    part.add_wheel("compiled", tag="cp311-cp311-manylinux_2_17_x86_64")
    part.mount(tmp_path / "kit" / "dataset")
    kit = manifest.read_kit(tmp_path / "kit")

    def compare(python: str, **packages: str) -> ImageDrift:
        image = Image(name="other", title="", accelerator="none", python=python, packages=packages)
        return compare_with_image(kit, image)

    assert compare("3.11.9", timm="0.9", lightgbm="4.6") == ImageDrift(broken=(), moved=())
    drift = compare("3.12.1", timm="0.8", lightgbm="4.5")
    assert drift.moved == ("Python 3.11 -> 3.12", "timm 0.9 -> 0.8")
    assert [line.partition("-")[0] for line in drift.broken] == ["'compiled"]
