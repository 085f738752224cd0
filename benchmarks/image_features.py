"""How much each image feature adds to the ranker: every feature with several seeds on the same pages.

    python benchmarks/image_features.py [--data DIR --embeddings DIR --clusters DIR] [--seeds 3] [--quick]

Trains with `models.train_ctr` and scores with `models.evaluate`, both as a user would run them. The last line is one
JSON object: per feature the mean over seeds of AUC, GAUC and GAUC on items unseen in training, and what `cluster_id`
adds to GAUC over `none`. `--quick` takes one seed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

FEATURES = ("none", "vector", "simscore", "cluster_id")
FIGURES = {
    "auc": lambda model: model["all"]["auc"],
    "gauc": lambda model: model["all"]["gauc_page_mean"],
    "gauc_unseen": lambda model: model["unseen_items"]["gauc_page_mean"],
}


def run(module: str, *arguments: str) -> None:
    """Runs a command of the project; its output is shown only if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(done.stdout)
    print(done.stdout.strip().splitlines()[-1], flush=True)


def main() -> None:
    """Runs the study and prints its table and its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="artifacts/dataset")
    parser.add_argument("--embeddings", default="artifacts/embeddings")
    parser.add_argument("--clusters", default="artifacts/clusters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to models.train_ctr")
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    seeds = range(1 if args.quick else args.seeds)
    options = [word for override in args.set for word in ("--set", override)]

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
    print(f"\n{'image feature':14s}" + "".join(f"{name:>22s}" for name in FIGURES))
    for feature in FEATURES:
        models = [model for model in metrics["models"].values() if model["image_feature"] == feature]
        result[feature] = {}
        cells = []
        for name, figure in FIGURES.items():
            values = [figure(model) for model in models]
            mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
            result[feature][name] = round(mean, 4)
            cells.append(f"{mean:.4f} +- {spread:.4f}")
        print(f"{feature:14s}" + "".join(f"{cell:>22s}" for cell in cells))
    for name in ("gauc", "gauc_unseen"):
        result[f"{name}_gain_cluster_id"] = round(result["cluster_id"][name] - result["none"][name], 4)
    print(f"mean and standard deviation over {len(seeds)} seeds; {metrics['notice']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
