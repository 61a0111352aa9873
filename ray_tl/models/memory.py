"""How much memory a training step takes, known before anything runs: on a device that has shapes alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

GIB = 2**30


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one worker at the peak of a step.

    Attributes:
        weights: Parameters and buffers, of what is frozen too.
        optimizer: Gradients, and the optimiser's numbers for each parameter that trains.
        activations: What the forward pass keeps for the backward pass.
    """

    weights: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = [("weights", self.weights), ("optimiser", self.optimizer), ("activations", self.activations)]
        inside = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts)
        return f"{self.total / GIB:.1f} GiB ({inside})"


def step_memory(network: nn.Module, rows: Tensor, numbers_per_parameter: int = 2) -> StepMemory:
    """The memory of a step on these rows; no number is computed if both are on the device `meta`.

    What libraries take for themselves, and scratch space inside a kernel, is not counted.

    Args:
        network: In the mode, and with the parameters frozen, in which it trains.
        rows: All rows of one worker's step, [N, ...].
        numbers_per_parameter: That the optimiser keeps; 2 for Adam.
    """
    own = {_storage(tensor) for tensor in [*network.parameters(), *network.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(rows)  # held until all is counted: a storage that is freed gives its number to another
    weights = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    trained = sum(tensor.nbytes for tensor in network.parameters() if tensor.requires_grad)
    del outputs
    return StepMemory(weights, (1 + numbers_per_parameter) * trained, sum(kept.values()))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on this machine now: the accelerator's, or the main memory that programs can get."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
