"""A small segmentation_models_pytorch: the weights of its encoders are files of download.pytorch.org."""

import torch

_ENCODERS = {("resnet34", "imagenet"): "https://download.pytorch.org/models/resnet34-{sha8}.pth"}


class Unet(torch.nn.Module):
    """An encoder and a head."""

    def __init__(
        self, encoder_name: str = "resnet34", encoder_weights: str | None = "imagenet", classes: int = 1
    ) -> None:
        super().__init__()
        self.encoder = torch.nn.Conv2d(3, 2, 3, padding=1)
        self.segmentation_head = torch.nn.Conv2d(2, classes, 1)
        if encoder_weights:
            url = _ENCODERS[encoder_name, encoder_weights]
            self.encoder.load_state_dict(torch.hub.load_state_dict_from_url(url, check_hash=True))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return masks."""
        return torch.sigmoid(self.segmentation_head(torch.relu(self.encoder(images))))
