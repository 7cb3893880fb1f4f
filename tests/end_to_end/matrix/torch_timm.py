"""An architecture of timm, by its weights alone; the pictures are digits, made ready as the model's settings say."""

from pathlib import Path

import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch_data import files, fit, probabilities

digits = load_digits(n_class=4)
pictures = [Image.fromarray((each * 15).astype("uint8")).convert("RGB") for each in digits.images[:120]]
classes = torch.tensor(digits.target[:120])
model = timm.create_model("test_resnet", pretrained=False, num_classes=4)
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
rows = torch.stack([prepare(each) for each in pictures])
fit(model, rows[:60], classes[:60], steps=12, rate=0.003)

torch.save(model.state_dict(), "models/best.pth")
Path("input/test").mkdir(parents=True)
names = [f"digit{number:03d}" for number in range(60, 120)]
for name, picture in zip(names, pictures[60:], strict=True):
    picture.save(f"input/test/{name}.png")
files(
    torch.cat([torch.tensor(probabilities(model, some)) for some in rows[60:].split(32)]).numpy(),
    names,
    "image_id",
)
