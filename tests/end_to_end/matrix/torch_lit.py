"""The same network as a LightningModule, made from its hyper-parameters."""

import pytorch_lightning as pl
import torch
from torch_net import Net


class Lit(pl.LightningModule):
    """`width` is in the checkpoint; predict_step answers with probabilities."""

    def __init__(self, width):
        super().__init__()
        self.save_hyperparameters()
        self.net = Net(width)

    def forward(self, rows):
        return self.net(rows)

    def training_step(self, batch, _index):
        rows, classes = batch
        return torch.nn.functional.cross_entropy(self(rows), classes)

    def predict_step(self, batch, _index):
        return torch.softmax(self(batch), dim=-1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)
