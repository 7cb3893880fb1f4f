"""Calls of a notebook that build a model with weights that are fetched, and what becomes of them."""

from pathlib import Path

import pytest

from offline_kit.adopt.findings import NeedKind, Outcome
from tests.support.adopting import looked, put

SMP = "import segmentation_models_pytorch as smp\n"
TV = "from torchvision import models\n"
TF = "import tensorflow as tf\n"


@pytest.mark.parametrize(
    ("build", "off"),
    [
        ("import timm\nm = timm.create_model('resnet18', True)", "timm.create_model('resnet18', False)"),
        (f"{SMP}m = smp.Unet('resnet34')", "smp.Unet('resnet34', encoder_weights=None)"),
        (f"{SMP}m = smp.Unet()", "smp.Unet(encoder_weights=None)"),
        (f"{SMP}m = smp.Unet('resnet34', 5, 'imagenet')", "smp.Unet('resnet34', 5, None)"),
        (
            f"{SMP}m = smp.Unet(\n    'resnet34',  # (a, b)\n    classes=(2),  # of them\n)",
            "    classes=(2), encoder_weights=None,  # of them\n)",
        ),
        (f"{SMP}m = smp.FPN(classes=(2))", "smp.FPN(classes=(2), encoder_weights=None)"),
        (f"{SMP}m = smp.FPN(('resnet34') )", "smp.FPN(('resnet34'), encoder_weights=None )"),
        (
            f"{SMP}m = smp.FPN((\n    'resnet34'  # :)\n))",
            "smp.FPN((\n    'resnet34'  # :)\n), encoder_weights=None)",
        ),
        (f"{TV}m = models.resnet50(models.ResNet50_Weights.DEFAULT)", "models.resnet50(None)"),
        (f"{TV}m = getattr(models, NAME)(pretrained=True)", "getattr(models, NAME)(pretrained=False)"),
        (
            f"{TV}m = models.detection.fasterrcnn_resnet50_fpn(weights='DEFAULT')",
            "fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)",
        ),
        (
            f"{TF}m = tf.keras.applications.EfficientNetB0(include_top=False)",
            "EfficientNetB0(include_top=False, weights=None)",
        ),
        (
            "import timm\nCFG = dict(pretrained=True)\nm = timm.create_model('a', pretrained=CFG['pretrained'])",
            "timm.create_model('a', pretrained=False)",
        ),
        (
            "import timm\nCFG = {'pre': True}\nm = timm.create_model('a', pretrained=CFG['pre'])",
            "timm.create_model('a', pretrained=False)",
        ),
        (
            "%%writefile model.py\nimport timm\ndef net():\n    return timm.create_model('x', pretrained=True)",
            "timm.create_model('x', pretrained=False)",
        ),
    ],
)
def test_a_switch_that_fetches_is_turned(tmp_path: Path, build: str, off: str) -> None:
    """By its name, its place or its default: once a checkpoint is loaded it is off, and the rest stays to the letter."""
    load = "m.load_weights('w.h5')" if "keras" in build else "m.load_state_dict(w)"
    found = looked(tmp_path, build, f"m = net()\n{load}")
    assert off in found.changed[0]
    assert not [one for one in found.unresolved if one.kind is NeedKind.PRETRAINED]
    compile(found.changed[0].removeprefix("%%writefile model.py\n"), "cell", "exec")


@pytest.mark.parametrize(
    "build",
    [
        f"{SMP}m = smp.Unet('resnet34', encoder_weights=None)",
        f"{SMP}m = smp.Unet('resnet34', None)",
        f"{SMP}m = smp.Unet(**args)",
        "import timm\nCFG = {'pretrained': False}\nm = timm.create_model(**CFG)",
        "from transformers import pipeline\np = pipeline(**args)",
        f"{TV}m = models.resnet18(False)",
        f"{TV}m = models.resnet18(weights=None)",
        f"{TV}m = models.resnet18(weights=W)",
        f"{TF}m = tf.keras.applications.EfficientNetB0(weights=None)",
        "CFG = dict(pretrained=True)\nm = build(CFG)",
        "import timm\nm = timm.create_model('resnet18')\nn = timm.list_models(pretrained=True)",
    ],
)
def test_a_switch_that_is_off_is_left(tmp_path: Path, build: str) -> None:
    """What fetches nothing is no finding, and no setting is taken for a model."""
    found = looked(tmp_path, build)
    assert found.changed == (build,)
    assert not [one for one in found.resolved if one.kind is NeedKind.PRETRAINED]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "import tensorflow_hub as hub\nm = hub.load('https://tfhub.dev/google/x/1')",
            "its folder loads as well",
        ),
        ("from ultralytics import YOLO\nm = YOLO('yolov8n.pt')", "'yolov8n.pt'"),
        ("from transformers import pipeline\np = pipeline('ner')", "`model=` names its folder"),
        ("import easyocr\nr = easyocr.Reader(['en'])", "download_enabled=False"),
        ("from sklearn.datasets import fetch_openml\nd = fetch_openml('mnist_784')", "joblib.dump"),
        (
            "import open_clip\nm = open_clip.create_model_and_transforms('ViT-B-32', pretrained='laion2b')",
            "pretrained=None",
        ),
        (f"{TF}m = tf.keras.applications.EfficientNetB0(include_top=False)", "model.save_weights"),
        (
            "import timm\nCFG = dict(model_name='a', pretrained=True)\nm = timm.create_model(**CFG)",
            "write pretrained=False",
        ),
    ],
)
def test_what_fetches_for_itself_is_asked_for(tmp_path: Path, line: str, said: str) -> None:
    """Each has one finding, and the remedy that fits its library."""
    (asked,) = looked(tmp_path, line).unresolved
    assert said in asked.remedy
    assert asked.kind in (NeedKind.HUB, NeedKind.PRETRAINED)


def test_a_file_that_is_there_is_not_fetched(tmp_path: Path) -> None:
    """The remedy done, nothing is asked any more: the file travels and is read from where it is shown."""
    put(tmp_path, "yolov8n.pt")
    found = looked(tmp_path, "from ultralytics import YOLO\nm = YOLO('yolov8n.pt')")
    assert not found.unresolved
    assert found.checkpoints == ("yolov8n.pt",)


def test_a_model_of_spacy_is_a_requirement(tmp_path: Path) -> None:
    """A model that the image lacks is asked for by its wheel where it is loaded; one that it has is no news."""
    found = looked(tmp_path, "import spacy\nnlp = spacy.load('de_core_news_sm')")
    assert [one.resolution for one in found.resolved if one.kind is NeedKind.CORPUS] == [Outcome.REQUIREMENT]
    assert found.requirements[0].startswith("de_core_news_sm @ https://")
    assert not looked(tmp_path, "import spacy\nnlp = spacy.load('mine')").requirements
