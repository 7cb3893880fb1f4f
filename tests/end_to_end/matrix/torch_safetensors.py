"""Weights alone, as safetensors."""

from data import competition
from safetensors.torch import save_file
from torch_data import fit, probabilities, tensors
from torch_net import Net

rows, classes, test, unknown = tensors()
model = Net(width=40)
fit(model, rows, classes)

save_file(model.state_dict(), "models/model.safetensors")
competition(test, probabilities(model, unknown))
