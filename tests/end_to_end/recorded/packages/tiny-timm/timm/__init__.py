"""A small timm: the weights of its models lie on the hub."""

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file

_REPOSITORIES = {"tiny_vit_5m": "timm/tiny_vit_5m.in1k"}


class TinyViT(torch.nn.Module):
    """Mean and spread of the channels through one layer."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Linear(6, self.num_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features."""
        return torch.relu(self.stem(torch.cat([images.mean((2, 3)), images.std((2, 3))], dim=1)))


def create_model(name: str, pretrained: bool = False, num_classes: int = 0) -> TinyViT:
    """Return a model, with the hub's weights if `pretrained`."""
    model = TinyViT()
    if pretrained:
        model.load_state_dict(load_file(hf_hub_download(_REPOSITORIES[name], "model.safetensors")))
    return model
