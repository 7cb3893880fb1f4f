"""Calls that would fetch weights are found in the project's own code, with line and remedy, and nothing else is."""

from pathlib import Path

import pytest

from offline_kit.checkpoints.downloads import check_hyper_parameters as hyper_findings
from offline_kit.checkpoints.downloads import find_downloads
from offline_kit.project.types import Checkpoint, CheckpointKind, Finding
from tests.support.lazy_modules import torch


def found(folder: Path, code: str, **params: object) -> tuple[Finding, ...]:
    """Return the findings of a module."""
    (folder / "model.py").write_text(code)
    return find_downloads(folder, [folder / "model.py"], params)


FETCHING = {
    "import timm\nm = timm.create_model('resnet18', pretrained=True)": "pretrained=False",
    "from timm import create_model as make\nm = make('resnet18', pretrained=True)": "pretrained=False",
    "import timm\ndef net(pretrained=True):\n    return timm.create_model('x', pretrained=pretrained)": "params",
    "import timm\nclass CFG:\n    pre = True\nm = timm.create_model('x', pretrained=CFG.pre)": "pretrained=False",
    "from torchvision import models\nm = models.resnet18(weights='DEFAULT')": "weights=None",
    "import torchvision.models as tm\nm = tm.resnet18(weights=tm.ResNet18_Weights.IMAGENET1K_V1)": "weights=None",
    "import torchvision\nm = torchvision.models.resnet18(pretrained=True)": "pretrained=False",
    "from torchvision.models.detection import fasterrcnn_resnet50_fpn as f\nf(weights_backbone='DEFAULT')": "None",
    "import segmentation_models_pytorch as smp\nm = smp.Unet('resnet34', encoder_weights='imagenet')": "None",
    "import segmentation_models_pytorch as smp\nm = smp.Unet('resnet34')": "encoder_weights=None",
    "from tensorflow.keras.applications import EfficientNetB0\nm = EfficientNetB0()": "weights=None",
    "from transformers import AutoModel\nm = AutoModel.from_pretrained('org/bert')": "save_pretrained",
    "from transformers import AutoTokenizer\nNAME = 'bert-base-uncased'\nt = AutoTokenizer.from_pretrained(NAME)": "from_config",
    "import transformers\nclass CFG:\n    name = 'org/b'\nm = transformers.AutoModel.from_pretrained(CFG.name)": "folder",
    "from sentence_transformers import SentenceTransformer\ns = SentenceTransformer('all-MiniLM-L6-v2')": "folder",
    "import torch\nm = torch.hub.load('pytorch/vision', 'resnet18')": "caches/torch",
    "from torch.hub import load_state_dict_from_url as f\nf('https://x')": "caches/torch",
    "import nltk\nnltk.download('punkt')": "caches/nltk_data",
    "import spacy.cli\nspacy.cli.download('en_core_web_sm')": "wheel",
    "from huggingface_hub import snapshot_download\nsnapshot_download('org/x')": "save_pretrained",
    "import timm\nm = timm.create_model('resnet18', True)": "pretrained=False",
    "from torchvision import models\nm = models.resnet18(True)": "weights=None",
    "from torchvision.models import resnet50, ResNet50_Weights\nm = resnet50(ResNet50_Weights.DEFAULT)": "weights=None",
    "from torchvision import models\nm = models.detection.fasterrcnn_resnet50_fpn()": "weights_backbone=None",
    "from torchvision import models\nm = models.detection.ssd300_vgg16(weights='DEFAULT')": "weights=None and weights_backbone=None",
    "from torchvision import models\nm = models.segmentation.deeplabv3_resnet50(num_classes=3)": "weights_backbone=None",
    "from torchvision import models\nm = getattr(models, name)(pretrained=True)": "pretrained=False",
    "from torchvision import models\nm = models.__dict__[name](weights='DEFAULT')": "weights=None",
    "import segmentation_models_pytorch as smp\nm = smp.create_model('Unet', 'resnet34')": "encoder_weights=None",
    "import segmentation_models_pytorch as smp\nm = smp.Unet('resnet34', 5, 'imagenet')": "encoder_weights=None",
    "import segmentation_models_pytorch as smp\nm = smp.PSPNet('resnet34', 'imagenet')": "encoder_weights=None",
    "import tensorflow as tf\nm = tf.keras.applications.EfficientNetB0(False, 'imagenet')": "weights=None",
    "import open_clip\nm = open_clip.create_model_and_transforms('ViT-B-32', 'laion2b')": "pretrained=None",
    "from transformers import pipeline\np = pipeline('ner', model='org/ner')": "folder",
    "from transformers import pipeline\np = pipeline('ner')": "folder",
    "from efficientnet_pytorch import EfficientNet\nm = EfficientNet.from_pretrained('efficientnet-b0')": "from_name",
    "import spacy\nn = spacy.load('en_core_web_sm')": "wheel",
    "from nltk.corpus import stopwords\ns = stopwords.words('english')": "caches/nltk_data",
    "import nltk\ns = nltk.word_tokenize('a b')": "caches/nltk_data",
    "import tensorflow_hub as hub\nm = hub.load('https://tfhub.dev/google/x/1')": "preprocessing",
    "from ultralytics import YOLO\nm = YOLO('yolov8n.pt')": "preprocessing",
    "import easyocr\nr = easyocr.Reader(['en'])": "download_enabled=False",
    "from sklearn.datasets import fetch_openml\nd = fetch_openml('mnist_784')": "joblib",
    "import kagglehub\nkagglehub.dataset_download('a/b')": "dataset_sources",
}


@pytest.mark.parametrize("code", FETCHING)
def test_what_fetches_is_found(tmp_path: Path, code: str) -> None:
    """Each has one finding with file, line and the remedy that fits."""
    (finding,) = found(tmp_path, code)
    assert finding.about == f"model.py:{len(code.splitlines())}"
    assert FETCHING[code] in finding.remedy


@pytest.mark.parametrize(
    "code",
    [
        "import timm\nm = timm.create_model('resnet18')",
        "import timm\nm = timm.create_model('resnet18', pretrained=False)",
        "import timm\ndef net(pretrained=False):\n    return timm.create_model('x', pretrained=pretrained)",
        "import timm\ndef net(pretrained):\n    return timm.create_model('x', pretrained=pretrained)",
        "from torchvision import models\nm = models.resnet18(weights=None)",
        "import segmentation_models_pytorch as smp\nm = smp.Unet('r', encoder_weights=None)\nsmp.losses.dice()",
        "import segmentation_models_pytorch as smp\nargs = {}\nm = smp.Unet(**args)",
        "from transformers import AutoModel\nm = AutoModel.from_pretrained('./bert')",
        "from transformers import AutoModel\nm = AutoModel.from_pretrained('/kaggle/input/bert/x/y')",
        "from transformers import AutoModel\nm = AutoModel.from_pretrained('local')",
        "from transformers import AutoModel\ndef f(path):\n    return AutoModel.from_pretrained(path)",
        "import torch\nm = torch.hub.load('code', 'net', source='local')",
        "def create_model(pretrained):\n    pass\ncreate_model(pretrained=True)",
        "import nltk\nif __name__ == '__main__':\n    nltk.download('punkt')",
        "import segmentation_models_pytorch as smp\nm = smp.Unet('resnet34', None)\nl = smp.losses.DiceLoss('binary')",
        "import segmentation_models_pytorch as smp\nm = smp.Unet('resnet34', 5, None)",
        "import segmentation_models_pytorch as smp\nm = smp.create_model('Unet', 'resnet34', None)",
        "from torchvision import models\nm = models.detection.fasterrcnn_resnet50_fpn(weights_backbone=None)",
        "from torchvision import models\nm = models.detection.fasterrcnn_resnet50_fpn(pretrained_backbone=False)",
        "from torchvision import models\nm = models.resnet18(False)\nn = models.get_model('resnet18')\nmodels.resnet.conv3x3(3, 4)",
        "from torchvision.models import feature_extraction as f\nm = f.create_feature_extractor(net, ['a'])",
        "import tensorflow as tf\nm = tf.keras.applications.EfficientNetB0(weights='/kaggle/input/e/w.h5')",
        "from tensorflow.keras import layers\nm = layers.Dense(3, 'relu')",
        "import open_clip\nm = open_clip.create_model('ViT-B-32', pretrained='local/clip.pt')",
        "import spacy\nn = spacy.load('local')",
        "from ultralytics import YOLO\nm = YOLO('best.pt')",
        "import tensorflow_hub as hub\nm = hub.load('local')",
        "from transformers import pipeline\np = pipeline('ner', model=net, tokenizer=tok)",
        "this is no python",
    ],
)
def test_what_does_not_fetch_is_not(tmp_path: Path, code: str) -> None:
    """Switches that are off, folders, unknown values, functions of other packages."""
    (tmp_path / "local").mkdir()
    assert found(tmp_path, code) == ()


def test_a_model_of_spacy_that_the_kit_brings_is_no_finding(tmp_path: Path) -> None:
    """It is a package: with its wheel in the kit, its name loads it."""
    (tmp_path / "model.py").write_text("import spacy\nn = spacy.load('en_core_web_sm')")
    assert find_downloads(tmp_path, [tmp_path / "model.py"], {}, {"en-core-web-sm"}) == ()


def test_data_of_nltk_that_travels_is_no_finding(tmp_path: Path) -> None:
    """What reads it finds it among the caches of the kit."""
    (tmp_path / "caches/nltk_data").mkdir(parents=True)
    assert found(tmp_path, "from nltk.corpus import stopwords\ns = stopwords.words('english')") == ()


def test_params_that_switch_it_off_are_the_remedy(tmp_path: Path) -> None:
    """A parameter that is on by default is switched off by the notebook's params, and then is no finding."""
    code = "import timm\ndef net(pretrained=True):\n    return timm.create_model('x', pretrained=pretrained)"
    assert "pretrained = false in [tool.offline-kit.notebook.params]" in found(tmp_path, code)[0].remedy
    assert found(tmp_path, code, pretrained=False) == ()


def lightning(path: Path, **hyper_parameters: object) -> Checkpoint:
    """Save a checkpoint with these hyper-parameters."""
    weights = {"pretrained.weight": torch.zeros(2)}
    torch.save(
        {"state_dict": weights, "pytorch-lightning_version": "2.6.0", "hyper_parameters": hyper_parameters},
        path,
    )
    size = path.stat().st_size
    return Checkpoint(original=path.name, path=path, size=size, sha256="", kind=CheckpointKind.LIGHTNING)


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({"lr": 0.1, "pretrained": True, "name": "x"}, "pretrained = True"),
        ({"encoder_weights": "imagenet"}, "encoder_weights = 'imagenet'"),
        ({"name": "imagenet", "encoder_weights": "imagenet"}, "encoder_weights = 'imagenet'"),
        ({"pretrained": False, "name": "pretrained", "flag": True}, ""),
        ({"encoder_weights": None, "other": "imagenet"}, ""),
    ],
)
def test_hyper_parameters_that_fetch(tmp_path: Path, saved: dict[str, object], said: str) -> None:
    """What Lightning saved is what the model is made from: a true `pretrained` there fetches."""
    lines = hyper_findings([lightning(tmp_path / "a.ckpt", **saved)], {})
    assert [said in line.what for line in lines] == [True] * bool(said)


def test_params_win_over_what_was_saved(tmp_path: Path) -> None:
    """Five folds give one finding, and none once the params switch it off."""
    folds = [lightning(tmp_path / f"{n}.ckpt", pretrained=True) for n in range(5)]
    (line,) = hyper_findings(folds, {})
    assert "pretrained = false" in line.remedy
    assert not hyper_findings(folds, {"pretrained": False})
