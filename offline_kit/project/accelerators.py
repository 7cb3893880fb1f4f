"""What the word after --accelerator means on Kaggle."""

from offline_kit.core.errors import UsageError, suggest_name

MACHINE_SHAPES = (
    "NvidiaTeslaT4",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaTeslaA100",
    "NvidiaH100",
    "NvidiaRtxPro6000",
)
"""Machine shapes with a GPU that Kaggle's client lists and a user may have; some are for certain competitions only."""
ALIASES = {
    "gpu": "NvidiaTeslaT4",
    "t4": "NvidiaTeslaT4",
    "t4x2": "NvidiaTeslaT4",
    "l4": "NvidiaL4",
    "l4x4": "NvidiaL4",
    "l4x1": "NvidiaL4X1",
    "a100": "NvidiaTeslaA100",
    "h100": "NvidiaH100",
    "rtxpro6000": "NvidiaRtxPro6000",
}
"""The words that people use for them."""
RETIRED = ("p100", "nvidiateslap100")
RESERVED = ("t4highmem", "nvidiateslat4highmem")
"""What Kaggle's client lists and the service gives to its own administrators alone."""


def find_machine_shape(accelerator: str) -> str:
    """Return Kaggle's machine shape for an accelerator's name, in any case; "" for none (CPU).

    Raises UsageError, with a guess, for a name that Kaggle does not know or no longer has.
    """
    word = accelerator.lower()
    if word in ("", "none", "cpu"):
        return ""
    shapes = {shape.lower(): shape for shape in MACHINE_SHAPES} | ALIASES
    if word in shapes:
        return shapes[word]
    if word in RETIRED:
        raise UsageError(
            f"the accelerator '{accelerator}' is retired: Kaggle's images no longer support the P100",
            hint="take 't4x2', or 'none' for a CPU notebook",
        )
    if word in RESERVED:
        raise UsageError(
            f"the accelerator '{accelerator}' is for Kaggle's administrators alone: a push with it is refused",
            hint="take 't4x2', or 'none' for a CPU notebook",
        )
    if "tpu" in word:
        raise UsageError(
            f"the accelerator '{accelerator}' is a TPU, which no template and no image here knows",
            hint="take 't4x2', or 'none' for a CPU notebook",
        )
    raise UsageError(
        f"unknown accelerator '{accelerator}'{suggest_name(word, shapes)}",
        hint=f"take 'none', one of {', '.join(map(repr, ALIASES))}, or a machine shape of Kaggle's",
    )
