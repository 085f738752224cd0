"""The peer of `retrieval/speed.py`: LightGCN with BPR in PyTorch, one training step on demand.

Reads one JSON request per line from standard input and answers each with one JSON line.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def training_step(work: Path, layout: str, layers: int, penalty: float, rate: float) -> Callable[[], float]:
    """Takes the next step and gives its loss.

    Args:
        work: holds the graph's `rows.npy`, `columns.npy` and `values.npy`, the first weights `nodes.npy`, and the
            triples of all steps, `triples.npy` `(steps, 3, batch)`, items counted after the users.
        layout: of the sparse matrix, `coo` or `csr`.
        layers, penalty, rate: of the model, of the squared vectors, and of Adam.
    """
    arrays = {name: np.load(work / f"{name}.npy") for name in ("rows", "columns", "values", "nodes", "triples")}
    nodes = torch.nn.Parameter(torch.from_numpy(arrays["nodes"]))
    places = torch.from_numpy(np.stack([arrays["rows"], arrays["columns"]]))
    graph = torch.sparse_coo_tensor(places, torch.from_numpy(arrays["values"]), (len(nodes),) * 2).coalesce()
    if layout == "csr":
        graph = graph.to_sparse_csr()
    optimizer = torch.optim.Adam([nodes], rate, eps=1e-8, fused=True)
    batches = iter(torch.from_numpy(arrays["triples"]))

    def step() -> float:
        optimizer.zero_grad()
        total = passed = nodes
        for _ in range(layers):
            passed = torch.sparse.mm(graph, passed)
            total = total + passed
        total = total / (layers + 1)
        user, item, negative = (total[rows] for rows in next(batches))
        loss = torch.nn.functional.softplus((user * negative).sum(1) - (user * item).sum(1)).mean()
        loss = loss + penalty * (user.square().sum() + item.square().sum() + negative.square().sum()) / 2 / len(user)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def resident_mb(field: str) -> float:
    """A size of this process, in MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1e3 if found else float("nan")


def main() -> None:
    """Serves requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where arrays are exchanged")
    parser.add_argument("--threads", type=int, required=True, help="of the processor")
    parser.add_argument("--layout", choices=("coo", "csr"), required=True, help="of the sparse matrix")
    parser.add_argument("--layers", type=int, required=True, help="of propagation")
    parser.add_argument("--penalty", type=float, required=True, help="weight of the squared vectors")
    parser.add_argument("--rate", type=float, required=True, help="learning rate")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    step = training_step(args.work_dir, args.layout, args.layers, args.penalty, args.rate)
    before = resident_mb("VmRSS")
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        if json.loads(line) == "memory":
            print(json.dumps({"mb": resident_mb("VmHWM") - before}), flush=True)
            continue
        start, cpu = time.perf_counter(), time.process_time()
        loss = step()
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "loss": loss}
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
