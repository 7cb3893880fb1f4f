"""A transformer over pictures with its image processor, by save_pretrained."""

from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch_data import files
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

digits = load_digits(n_class=4)
pictures = [Image.fromarray((each * 15).astype("uint8")).convert("RGB") for each in digits.images[:160]]
classes = torch.tensor(digits.target[:160])
processor = ViTImageProcessor(size={"height": 16, "width": 16})
config = ViTConfig(
    image_size=16,
    patch_size=4,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    num_labels=4,
)
model = ViTForImageClassification(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
seen = processor(images=pictures[:100], return_tensors="pt")
for _ in range(25):
    optimizer.zero_grad()
    model(**seen, labels=classes[:100]).loss.backward()
    optimizer.step()
model.eval()

model.save_pretrained("models/vit")
processor.save_pretrained("models/vit")
Path("input/test").mkdir(parents=True)
names = [f"digit{number:03d}" for number in range(100, 160)]
for name, picture in zip(names, pictures[100:], strict=True):
    picture.save(f"input/test/{name}.png")
with torch.inference_mode():
    logits = model(**processor(images=pictures[100:], return_tensors="pt")).logits
files(torch.softmax(logits, dim=-1).numpy(), names, "image_id")
