"""From your own logs to a published version, in one file.

    python examples/logs_to_published_version.py --logs my_logs --work my_work --split-by-time 2026-03-01,2026-03-08

`--logs` is a directory with `impressions`, `items` and, if you have them, `events`, `users` and `images/`: see
docs/data-contract.md. Names of columns that differ go into `BuildOptions(columns=...)`. Afterwards, point TensorFlow
Serving (or `python -m export.serve --base-path my_work/serving`) at the published directory.
"""

import argparse
from pathlib import Path

from beam_pipelines import BuildOptions, build_dataset
from export import publish
from models import (
    Dataset,
    PretrainConfig,
    TrainingConfig,
    cluster,
    embed,
    evaluate,
    load_config,
    pretrain,
    show_progress,
    train_ranker,
)


def main(logs: Path, work: Path, options: BuildOptions, encoder_epochs: int = 8, ranker_epochs: int = 7) -> Path:
    """Builds, trains, measures and publishes; returns the directory of the published version."""
    build_dataset(logs, work / "dataset", options)
    data = Dataset(work / "dataset")

    pretrain(data, work / "encoder", config=load_config(PretrainConfig, "courier_cpu", [f"epochs={encoder_epochs}"]))
    embeddings = embed(data, work / "encoder", work / "embeddings")
    clusters = cluster(embeddings, work / "clusters")

    # The same ranker without pictures says what they are worth in your shop.
    config = TrainingConfig(epochs=ranker_epochs)
    train_ranker(data, work / "ranker", pictures=clusters, config=config)
    train_ranker(data, work / "ranker_without_pictures", config=config)
    report = evaluate(data, [work / "ranker_without_pictures", work / "ranker"], output=work / "report")
    for name, model in report["models"].items():
        print(f"{name}: GAUC {model['all']['gauc_page_mean']:.4f} on test pages")

    # Loads, answers and scores like the ranker in process, or it is not published.
    return publish(work / "ranker", work / "serving", data=work / "dataset", report=work / "report").path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--split-by-time", required=True, metavar="PRETRAIN_END,TRAIN_END")
    arguments = parser.parse_args()
    show_progress()
    options = BuildOptions(split_by_time=arguments.split_by_time.split(","))
    print(f"published {main(arguments.logs, arguments.work, options)}")
