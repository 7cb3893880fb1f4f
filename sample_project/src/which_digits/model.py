"""The model: EfficientNet's blocks, a global maximum, one score per digit."""

import pytorch_lightning as pl
import torch
import ttach
from efficientnet_pytorch.model import MBConvBlock
from efficientnet_pytorch.utils import BlockArgs, GlobalParams
from torch import nn

SIZE = 32
CLASSES = 10

# A picture may be a little darker or brighter than those the model saw.
VIEWS = ttach.Compose([ttach.Multiply(factors=[0.9, 1.0, 1.1])])


def block(inward: int, outward: int, kernel: int) -> MBConvBlock:
    """Return one of EfficientNet's inverted bottlenecks, which keeps the size of the map."""
    shape = BlockArgs(
        num_repeat=1,
        kernel_size=kernel,
        stride=[1],
        expand_ratio=2,
        input_filters=inward,
        output_filters=outward,
        se_ratio=0.25,
        id_skip=True,
    )
    norms = GlobalParams(batch_norm_momentum=0.9, batch_norm_epsilon=1e-3, image_size=SIZE // 2)
    made = MBConvBlock(shape, norms, image_size=SIZE // 2)
    # The usual form of the activation; the package's own trades speed for memory on GPUs.
    made.set_swish(memory_efficient=False)
    return made


class LitDigits(pl.LightningModule):
    """Says which digits are in a picture: ten independent yes-or-no answers."""

    def __init__(self, width: int = 32, rate: float = 4e-3, steps: int = 1000) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.rate, self.steps = rate, steps
        self.trunk = nn.Sequential(
            nn.Conv2d(1, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.SiLU(),
            block(width, width, 3),
            block(width, 2 * width, 3),
            nn.Conv2d(2 * width, 4 * width, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.SiLU(),
        )
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 10) for pictures (n, 1, 32, 32) with values from 0 to 1."""
        # The maximum, not the mean: a digit is in the picture if it is anywhere in it.
        return self.head(self.trunk(pictures).amax(dim=(2, 3)))

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        pictures, answers = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self(pictures), answers)
        self.log("loss", loss, prog_bar=True)
        return loss

    def predict_step(self, batch: torch.Tensor, _index: int = 0) -> torch.Tensor:
        """Return probabilities (n, 10), the mean over slightly darker and brighter views."""
        views = [torch.sigmoid(self(view.augment_image(batch))) for view in VIEWS]
        return torch.stack(views).mean(dim=0)

    def configure_optimizers(self) -> dict[str, object]:
        """Train with one warm-up and one cool-down over all steps."""
        adam = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=1e-3)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=self.rate, total_steps=self.steps)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
