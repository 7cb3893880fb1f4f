"""A program of torch.export, for any number of rows."""

import torch
from data import competition
from torch_data import fit, probabilities, tensors
from torch_net import Net

rows, classes, test, unknown = tensors()
model = Net()
fit(model, rows, classes)

program = torch.export.export(model, (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))
torch.export.save(program, "models/model.pt2")
competition(test, probabilities(model, unknown))
