"""What augmenting a batch costs beside the step that trains on it.

    python tests/benchmarks/augmentation.py [--side 96] [--batch 64]

One batch of random images on one processor or the first GPU; the step is forward and backward of `efficientnet_lite0`
on such a batch of each of two domains. Milliseconds, the median of five.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from ray_tl.config import Component
from ray_tl.data.augmentation import AUGMENTATIONS
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.transfer_model import build_transfer_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.rand(given.batch, 3, given.side, given.side, device=device)
    network = build_transfer_model(Component(name="efficientnet_lite0"), 9, BackboneContext(load_weights=False))
    network.to(device).train()
    print(f"{'step':20}{milliseconds(lambda: network(torch.cat([images, images]))[1].sum().backward()):8.0f}")
    known = {name: AUGMENTATIONS.create(name, {}) for name in AUGMENTATIONS.names()}
    for name, augmentation in known.items():
        if augmentation.modality == "text":
            continue
        change = partial(augmentation.augment, images, torch.Generator().manual_seed(0))
        print(f"{name:20}{milliseconds(change):8.0f}")


def milliseconds(work: Callable[[], object]) -> float:
    """Median of five, after one that does not count."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
