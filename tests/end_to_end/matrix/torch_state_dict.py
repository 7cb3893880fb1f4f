"""A checkpoint as a training loop writes it: weights under a key, of a model in DataParallel, with its optimizer."""

import torch
from data import competition
from torch_data import fit, probabilities, tensors
from torch_net import Net

rows, classes, test, unknown = tensors()
model = torch.nn.DataParallel(Net(width=48))
optimizer = fit(model, rows, classes)

saved = {"epoch": 60, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
torch.save(saved, "models/best.pt")
assert next(iter(model.state_dict())).startswith("module.")
competition(test, probabilities(model, unknown))
