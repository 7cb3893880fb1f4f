"""A whole model, by torch.save(model)."""

import torch
from data import competition
from torch_data import fit, probabilities, tensors
from torch_net import Net

rows, classes, test, unknown = tensors()
model = Net(width=24)
fit(model, rows, classes)

torch.save(model, "models/model.pth")
competition(test, probabilities(model, unknown))
