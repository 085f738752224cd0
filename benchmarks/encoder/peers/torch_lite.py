"""The peer of `fine_tuning_speed.py`: EfficientNet-Lite0 of `efficientnet_lite_pytorch`, one training step on demand.

Batch normalisation keeps its published statistics, as in a step of ours. Reads one JSON request per line from standard
input and answers each with one JSON line.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

LEARNING_RATE = 1e-4


class Encoder(torch.nn.Module):
    """Pictures uint8 `(n, height, width, 3)` to the averages of the last stage, `(n, 1280)`."""

    def __init__(self, weights: Path, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network._fc.requires_grad_(False)
        self.network._dropout.p = 0.0
        self.eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = ((pictures.float() - 127) / 128).permute(0, 3, 1, 2)
        return self.network.extract_features(x).mean((2, 3))


def training_step(encoder: Encoder, pictures: torch.Tensor) -> Callable[[], float]:
    """Takes one step of Adam on the mean square of the features and gives the loss."""
    parameters = [each for each in encoder.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, eps=1e-7, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        value = encoder(pictures).square().mean()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where pictures and features are exchanged")
    parser.add_argument("--threads", type=int, required=True, help="of the processor")
    parser.add_argument("--weights", type=Path, required=True, help="the published file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pictures = torch.from_numpy(np.load(args.work_dir / "pictures.npy"))
    steps: dict[str, Callable[[], float]] = {}
    for name, layout in (("nchw", torch.contiguous_format), ("channels_last", torch.channels_last)):
        encoder = Encoder(args.weights, tuple(pictures.shape[1:3])).to(memory_format=layout)
        steps[name] = training_step(encoder, pictures)
        with torch.no_grad():
            np.save(args.work_dir / "features.npy", encoder(pictures).numpy())
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        loss = steps[json.loads(line)]()
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "loss": loss}
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
