"""The gate: a few hundred numbers beside the weights of the network that they were learnt for."""

from pathlib import Path

from torch import nn

from medical_sam2.consensus.evidence import FEATURES
from medical_sam2.errors import WeightsError
from medical_sam2.model.tensors import read_tensors

GATE_FILE = "consensus.safetensors"


class Gate(nn.Sequential):
    """Features (N, F) → what is added to the logit (N, 1).

    Args:
        hidden: units of each of the two hidden layers.
    """

    def __init__(self, hidden: int = 16) -> None:
        layers = nn.Linear(len(FEATURES), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        super().__init__(*layers)

    @classmethod
    def beside(cls, weights: Path) -> "Gate | None":
        """The gate that lies beside a file of weights; None where there is none.

        Raises:
            WeightsError: the file is broken, or of another version.
        """
        file = weights.with_name(GATE_FILE)
        if not file.is_file():
            return None
        tensors = {name: tensor.float() for name, tensor in read_tensors(file).items()}
        if any(not tensor.isfinite().all() for tensor in tensors.values()):
            raise WeightsError("it holds NaN or infinite numbers", "fit the consensus again", subject=file)
        try:
            gate = cls(len(tensors["0.bias"]))
            gate.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError):
            raise WeightsError("it does not fit this version", "fit the consensus again", subject=file) from None
        return gate.requires_grad_(False)
