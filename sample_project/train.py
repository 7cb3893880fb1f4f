"""Train the model and write checkpoints/best.ckpt; a minute or two.

    pip install -r requirements.in scikit-learn && pip install -e .
    python train.py             or: python train.py ELSEWHERE.ckpt

The seed is fixed, and one thread sums in one order: the same machine gives the same weights again. Another
processor or torch changes their last digits, and hardly the score.
"""

import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from make_data import compose, digits
from torch.utils.data import DataLoader, TensorDataset
from which_digits.model import CLASSES, LitDigits

PICTURES, EPOCHS, BATCH = 12_000, 6, 128
TARGET = Path(__file__).parent / "checkpoints" / "best.ckpt"


def training_set() -> TensorDataset:
    """Compose the training pictures; none of their digits is in a test picture."""
    rng = np.random.default_rng(1)
    bank, names = digits("train")
    pictures, answers = np.empty((PICTURES, 1, 32, 32), np.float32), np.zeros((PICTURES, CLASSES), np.float32)
    for index in range(PICTURES):
        picture, shown = compose(rng, bank, names)
        pictures[index, 0] = picture / np.float32(255)
        answers[index, shown] = 1
    return TensorDataset(torch.from_numpy(pictures), torch.from_numpy(answers))


def main(target: Path) -> None:
    """Train from the fixed seed and save the weights without the optimizer's state."""
    pl.seed_everything(2021, verbose=False)
    # Small depthwise convolutions: a second thread waits more than it works, and this layout halves the time.
    torch.set_num_threads(1)
    model = LitDigits(steps=EPOCHS * (PICTURES // BATCH)).to(memory_format=torch.channels_last)
    loader = DataLoader(training_set(), batch_size=BATCH, shuffle=True, drop_last=True)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    target.parent.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(target, weights_only=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
