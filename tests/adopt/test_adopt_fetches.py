"""What a notebook fetches by itself: named with its line, left as it is, and for a recording to settle."""

from pathlib import Path

import pytest

from offline_kit.adopt.findings import NeedKind, Outcome
from tests.support.adopting import looked, put

HUB, PRETRAINED, CORPUS, DOWNLOAD = NeedKind.HUB, NeedKind.PRETRAINED, NeedKind.CORPUS, NeedKind.DOWNLOAD
SMP = "import segmentation_models_pytorch as smp\n"
TV = "from torchvision import models\n"
TF = "import tensorflow as tf\n"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("from huggingface_hub import hf_hub_download\np = hf_hub_download(REPO, 'a.bin')", HUB),
        ("from huggingface_hub import snapshot_download as d\np = d(repo_id='o/m')", HUB),
        ("from datasets import load_dataset\nd = load_dataset('imdb', split='test')", HUB),
        ("from sentence_transformers import SentenceTransformer as S\ns = S('all-MiniLM-L6-v2')", HUB),
        ("from transformers import pipeline\np = pipeline('ner')", HUB),
        ("import keras_hub\nm = keras_hub.models.A.from_preset('small_en')", HUB),
        ("import torch\nm = torch.hub.load('pytorch/vision', 'resnet18')", HUB),
        ("import tensorflow_hub as hub\nm = hub.load('https://tfhub.dev/google/x/1')", HUB),
        ("from ultralytics import YOLO\nm = YOLO('yolov8n.pt')", HUB),
        ("import easyocr\nr = easyocr.Reader(['en'])", HUB),
        ("from sklearn.datasets import fetch_openml\nd = fetch_openml('mnist_784')", HUB),
        ("!huggingface-cli download gpt2", HUB),
        ("!hf download --repo-type dataset o/d --local-dir here", HUB),
        ("!nohup vllm serve o/m --port 8000 > log.txt 2>&1 &", HUB),
        ("!vllm serve --port 8000 o/m", HUB),
        ("!CUDA_VISIBLE_DEVICES=0 python -m vllm.entrypoints.openai.api_server --model 'o/m' --dtype half", HUB),
        ("!text-generation-launcher --model-id gpt2", HUB),
        ("ID = 'o/m'\n!python -u -m sglang.launch_server --model-path={ID} --port 1", HUB),
        ("%%bash\npython infer.py --model_name_or_path o/m \\\n  --out x.csv", HUB),
        ("import subprocess\np = subprocess.Popen(['vllm', 'serve', 'o/m', '--port', '1'])", HUB),
        ("import os\nos.system('lmdeploy serve api_server o/m --server-port 1 &')", HUB),
        ("import nltk\nnltk.download(['stopwords', 'wordnet'])", CORPUS),
        ("!python -m nltk.downloader stopwords", CORPUS),
        ("!python -m spacy download en_core_web_trf", CORPUS),
        ("import spacy\nnlp = spacy.load('de_core_news_sm')", CORPUS),
        ("import timm\nm = timm.create_model('resnet18', True)", PRETRAINED),
        ("import timm\nCFG = {'pre': True}; m = timm.create_model('a', pretrained=CFG['pre'])", PRETRAINED),
        ("import timm\nCFG = dict(pretrained=True); m = timm.create_model('a', **CFG)", PRETRAINED),
        ("import timm\nclass C: pretrained = True; m = timm.create_model('a', pretrained=C.pretrained)", PRETRAINED),
        ("x = 1\nclass Net:\n    def __init__(self, pretrained=True): pass", PRETRAINED),
        ("from mine import Net\nm = Net(pretrained=True)", PRETRAINED),
        (f"{SMP}m = smp.Unet('resnet34')", PRETRAINED),
        (f"{SMP}m = smp.Unet('resnet34', 5, 'imagenet')", PRETRAINED),
        (f"{TV}m = models.resnet50(models.ResNet50_Weights.DEFAULT)", PRETRAINED),
        (f"{TV}m = getattr(models, NAME)(pretrained=True)", PRETRAINED),
        (f"{TV}m = models.detection.fasterrcnn_resnet50_fpn(weights='DEFAULT')", PRETRAINED),
        (f"{TF}m = tf.keras.applications.EfficientNetB0(include_top=False)", PRETRAINED),
        ("import open_clip\nm = open_clip.create_model('ViT-B-32', pretrained='laion2b')", PRETRAINED),
        ("%%writefile model.py\nimport timm\ndef net():\n    return timm.create_model('x', pretrained=True)", PRETRAINED),
        ("%%writefile model.py\nfrom transformers import AutoModel\nm = AutoModel.from_pretrained('o/m')", HUB),
        ("!gdown 1abc", DOWNLOAD),
        ("import gdown\ngdown.download('https://drive.google.com/uc?id=1abc')", DOWNLOAD),
        ("for x in 'ab':\n    !wget https://example.org/{x}.pt", DOWNLOAD),
    ],
)  # fmt: skip
def test_what_is_fetched_is_named_and_left(tmp_path: Path, source: str, kind: NeedKind) -> None:
    """Its line is not touched, nothing is guessed in its place, and a recording would settle it."""
    adoption = looked(tmp_path, source)
    (need,) = (need for need in adoption.unresolved if need.kind is not NeedKind.IMPORT)
    assert source.split("\n")[need.line - 1].strip()[:20] == need.text[:20]
    assert (need.kind, need.cell) == (kind, 1)
    assert adoption.recordable == (need,)
    assert (adoption.changed, adoption.checkpoints) == ((source,), ())


@pytest.mark.parametrize(
    "source",
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
        "import spacy\nnlp = spacy.load('mine')",
        "!vllm serve /kaggle/working/models/o/m/1",
        "!vllm serve {folder} --port 1",
        "!vllm serve $MODEL",
        "!vllm --version",
        "!python train.py --model models/net --out o/m",
        "!python train.py --model runs/net.pt --model-path nets/best.safetensors --model resnet50",
        "!text-generation-launcher --model-id ./m",
    ],
)
def test_what_fetches_nothing_is_no_question(tmp_path: Path, source: str) -> None:
    """Switches that are off, settings that are no model, paths, and what is known only when it runs."""
    adoption = looked(tmp_path, source)
    assert adoption.changed == (source,)
    kinds = (HUB, PRETRAINED, CORPUS)
    asked = [
        need for need in adoption.resolved if need.kind in kinds and need.resolution is Outcome.UNRESOLVED
    ]
    assert asked == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from ultralytics import YOLO\nm = YOLO('yolov8n.pt')", "yolov8n.pt"),
        ("from datasets import load_dataset\nd = load_dataset('csv', data_files='rows.csv')", "rows.csv"),
        ("from transformers import AutoModel\nm = AutoModel.from_pretrained('models/bert')", "models/bert"),
        ("import subprocess\nID = 'models/m'\nsubprocess.Popen(['vllm', 'serve', ID])", "models/m"),
    ],
)
def test_a_file_or_folder_beside_is_not_fetched(tmp_path: Path, source: str, name: str) -> None:
    """It goes into the kit, and to the same place in the working folder: the line needs no change."""
    put(tmp_path, name if "." in name else f"{name}/config.json")
    adoption = looked(tmp_path, source)
    assert not adoption.recordable
    assert adoption.changed == (source,)
    assert (adoption.checkpoints, adoption.laid_out) == ((name,), ((name, name),))


def test_a_model_of_spacy_that_the_image_has_is_not_fetched(tmp_path: Path) -> None:
    """Its download is switched off, and the line that loads it stays."""
    adoption = looked(
        tmp_path, "!python -m spacy download en_core_web_sm\nimport spacy\nspacy.load('en_core_web_sm')"
    )
    assert not adoption.unresolved
    assert adoption.changed[0].startswith("pass  # offline-kit: !python")
    assert adoption.changed[0].endswith("spacy.load('en_core_web_sm')")
