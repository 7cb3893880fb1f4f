"""The test pictures of the competition, and how the answers are written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset[torch.Tensor]):
    """Pictures of a folder as tensors (1, 32, 32) with values from 0 to 1."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = tuple(names)

    def __len__(self) -> int:
        """Return how many pictures there are."""
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one picture."""
        with Image.open(self.folder / self.names[index]) as picture:
            values = np.asarray(picture.convert("L"), dtype=np.float32)
        return torch.from_numpy(values / 255).unsqueeze(0)


class DigitsData:
    """Reads the competition's folder, and turns probabilities into its submission.

    What offline-kit's lightning template asks of a data class: the folder first, `predict_dataloader` in a
    fixed order, and `submission`, which knows the ids and the threshold.
    """

    def __init__(self, root: Path, batch: int = 64, threshold: float = 0.5) -> None:
        self.root = root
        self.batch = batch
        self.threshold = threshold
        # Whoever lists the pictures finds the hidden ones too; a stored list of the public ones would not.
        self.names = sorted(path.name for path in (root / "test").glob("*.png"))

    def predict_dataloader(self) -> DataLoader[torch.Tensor]:
        """Return the test pictures in the order of their names."""
        return DataLoader(Pictures(self.root / "test", self.names), batch_size=self.batch, shuffle=False)

    def submission(self, predictions: torch.Tensor) -> list[dict[str, str]]:
        """Return one row for each picture: its name, and its digits joined by spaces."""
        rows = zip(self.names, predictions, strict=True)
        return [{"image": name, "labels": " ".join(self.digits(row))} for name, row in rows]

    def digits(self, probabilities: torch.Tensor) -> list[str]:
        """Return the digits above the threshold, or the likeliest: no picture is empty."""
        chosen = torch.nonzero(probabilities > self.threshold).flatten().tolist()
        return [str(digit) for digit in chosen or [int(probabilities.argmax())]]
