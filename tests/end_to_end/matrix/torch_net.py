"""The project's own code: a network over a table, with what must be switched off for predicting."""

from torch import nn


class Net(nn.Module):
    """Thirteen numbers in, the logits of three classes out."""

    def __init__(self, width=32, dropout=0.2):
        super().__init__()
        self.spread = nn.BatchNorm1d(13)
        self.layers = nn.Sequential(nn.Linear(13, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3))

    def forward(self, rows):
        return self.layers(self.spread(rows))
