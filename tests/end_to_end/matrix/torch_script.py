"""TorchScript, by torch.jit.script."""

import torch
from data import competition
from torch_data import fit, probabilities, tensors
from torch_net import Net

rows, classes, test, unknown = tensors()
model = Net()
fit(model, rows, classes)

torch.jit.script(model).save("models/model.pt")
competition(test, probabilities(model, unknown))
