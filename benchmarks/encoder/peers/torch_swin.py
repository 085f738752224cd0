"""The peer of `speed.py` and `gpu.py`: the same Swin-T and the same COURIER loss in PyTorch, one step on demand.

The network is `transformers.SwinModel` with its default attention (scaled dot product), Adam is PyTorch's fused one. As
in published code, a page's pictures are encoded slot by slot, however often they repeat. On a GPU, it computes in
bfloat16 where autocast does. Reads one JSON request per line from standard input and answers each with one JSON line.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import SwinConfig, SwinModel

LEARNING_RATE = 1e-4


class Encoder(torch.nn.Module):
    """Pictures uint8 `(n, height, width, 3)` to embeddings `(n, dim)`."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.bfloat16 = False
        self.register_buffer("mean", torch.tensor((123.675, 116.28, 103.53)), persistent=False)
        self.register_buffer("stddev", torch.tensor((58.395, 57.12, 57.375)), persistent=False)
        self.swin = SwinModel(SwinConfig(drop_path_rate=0.0))
        self.projection = torch.nn.Linear(self.swin.num_features, embedding_dim)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = ((pictures.float() - self.mean) / self.stddev).permute(0, 3, 1, 2)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            embeddings = self.projection(self.swin(x).pooler_output)
        return embeddings.float()


def randomise(module: torch.nn.Module) -> None:
    """Moves every weight from its initial value, so that none hides behind a zero or a one."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


def reconstruction(candidates: torch.Tensor, clicks: torch.Tensor) -> torch.Tensor:
    """COURIER, equations 1-3; without padding."""
    scores = candidates @ clicks.transpose(1, 2) * clicks.shape[-1] ** -0.5
    return scores.softmax(-1) @ clicks


def contrast(embeddings: torch.Tensor, reconstructions: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """COURIER, equations 4-6, as a mean over the positives."""
    rows = functional.normalize(embeddings.flatten(0, 1), dim=-1)
    columns = functional.normalize(reconstructions.flatten(0, 1), dim=-1)[positive.flatten()]
    labels = positive.flatten().nonzero()[:, 0]
    return functional.cross_entropy(columns @ rows.T / 0.05, labels)


def page_loss(encoder: Encoder, pages: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of both views; every slot of the pages has its own picture."""
    batch, candidates = pages["clicked"].shape
    embeddings = encoder(pages["slots"]).unflatten(0, (batch, -1))
    shown, clicks = embeddings[:, :candidates], embeddings[:, candidates:]
    latest, earlier = clicks[:, :1], clicks[:, 1:]
    page_view = contrast(shown, reconstruction(shown, clicks), pages["clicked"])
    everyone = torch.ones((batch, 1), dtype=torch.bool, device=embeddings.device)
    return page_view + contrast(latest, reconstruction(latest, earlier), everyone)


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """One step of Adam on a loss; gives the loss."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, eps=1e-7, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where weights and pictures are exchanged")
    parser.add_argument("--threads", type=int, help="of the processor")
    parser.add_argument("--device", default="cpu", help="where to compute")
    parser.add_argument("--embedding-dim", type=int, required=True)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # so that float32 is float32 on a GPU too
    encoder = Encoder(args.embedding_dim)
    randomise(encoder)
    encoder.to(args.device)
    encoder.swin.save_pretrained(args.work_dir)
    np.savez(
        args.work_dir / "projection.npz", **{k: v.detach().cpu() for k, v in encoder.projection.named_parameters()}
    )
    first_weights = copy.deepcopy(encoder.state_dict())
    pictures = torch.from_numpy(np.load(args.work_dir / "pictures.npy")).to(args.device)
    compiled = torch.compile(encoder)
    steps: dict[str, Callable[[], float]] = {
        "images": training_step(encoder, lambda: encoder(pictures).square().mean()),
        "images_compiled": training_step(compiled, lambda: compiled(pictures).square().mean()),
    }
    for file in sorted(args.work_dir.glob("pages_*.npz")):
        pages = {name: torch.from_numpy(values).to(args.device) for name, values in np.load(file).items()}
        steps[file.stem] = training_step(encoder, lambda pages=pages: page_loss(encoder, pages))
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request == "embed":
            encoder.load_state_dict(first_weights)
            encoder.bfloat16 = False
            with torch.no_grad():
                np.save(args.work_dir / "embeddings.npy", encoder(pictures).cpu().numpy())
            encoder.bfloat16 = args.device != "cpu"
            print("{}", flush=True)
            continue
        if request == "memory":
            step_memory = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
            print(json.dumps({"bytes": step_memory}), flush=True)
            torch.cuda.reset_peak_memory_stats()
            continue
        start, cpu = time.perf_counter(), time.process_time()
        loss = steps[request]()
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "loss": loss}
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
