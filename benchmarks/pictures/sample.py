"""How much each image feature adds to the ranker: every feature with several seeds on the same pages.

    python -m benchmarks.pictures.sample [--data DIR --embeddings DIR --clusters DIR] [--seeds 3] [--quick]

Trains with `models.train_ctr` and scores with `models.evaluate`, both as a user would run them. GAUC is the mean AUC of
pages; `unseen_items` counts only the candidates that are on no training page. Seeds are averaged; differences have
paired 95 % intervals, by a bootstrap over users. The figures: of each feature the AUC, and over all candidates and the
unseen ones the GAUC and what it adds over `none`, with its interval. `--quick` takes one seed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.base import benchmark_parser, run_benchmark, set_options
from models.evaluation.report import PARTS

FEATURES = ("none", "vector", "simscore", "cluster_id")


def run(module: str, *arguments: str) -> None:
    """Runs a command of the project; its output is shown only if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(done.stdout)
    print(done.stdout.strip().splitlines()[-1], flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="one seed")
    parser.add_argument("--data", default="artifacts/dataset")
    parser.add_argument("--embeddings", default="artifacts/embeddings")
    parser.add_argument("--clusters", default="artifacts/clusters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.train_ctr")
    run_benchmark("pictures_sample", parser, measure)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, evaluates and prints the table."""
    seeds = range(1 if args.quick else args.seeds)
    options = set_options(args.set)

    with tempfile.TemporaryDirectory() as directory:
        runs = []
        for seed in seeds:
            for feature in FEATURES:
                runs.append(f"{directory}/{feature}-{seed}")
                run(
                    "models.train_ctr",
                    *("--data", args.data, "--output", runs[-1], "--image-feature", feature, "--seed", str(seed)),
                    *("--embeddings", args.embeddings, "--clusters", args.clusters, *options),
                )
        report = Path(directory) / "report"
        run("models.evaluate", "--data", args.data, "--model", *runs, "--output", str(report))
        metrics = json.loads((report / "metrics.json").read_text())

    result = {"notice": metrics["notice"], "pages": metrics["pages"], "seeds": len(seeds)}
    print(f"\n{'image feature':15s}{'AUC':9s}" + "".join(f"{f'GAUC, {part}':23s}{'less none':28s}" for part in PARTS))
    for system in metrics["systems"].values():
        models = [metrics["models"][name] for name in system["models"]]
        feature = models[0]["image_feature"]
        result[feature] = {"auc": round(system["all"]["auc"], 4)}
        cells = [f"{feature:15s}{system['all']['auc']:<9.4f}"]
        for part in PARTS:
            of_seeds = [model[part]["gauc_page_mean"] for model in models]
            spread = f" +- {statistics.stdev(of_seeds):.4f}" if len(of_seeds) > 1 else ""
            cells.append(f"{f'{statistics.fmean(of_seeds):.4f}{spread}':23s}")
            figures = result[feature][part] = {"gauc": round(statistics.fmean(of_seeds), 4)}
            if len(of_seeds) > 1:
                figures["over_seeds"] = statistics.stdev(of_seeds)
            if "differences" in system[part]:
                gain = system[part]["differences"]["gauc_page_mean"]
                cells.append(f"{'{difference:+.4f} [{low:+.4f}, {high:+.4f}]'.format(**gain):28s}")
                figures["gain_over_none"] = [round(value, 4) for value in gain.values()]
            else:
                cells.append(" " * 28)
        print("".join(cells))
    print(f"mean and standard deviation over {len(seeds)} seeds; {metrics['notice']}")
    return result


if __name__ == "__main__":
    main()
