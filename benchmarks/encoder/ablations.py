"""Which parts of COURIER matter on H&M: the paper's Table 6, with two more variants, on equal data and budget.

    python -m benchmarks.encoder.ablations [--source DIR] [--work-dir DIR] [--config NAME] [--jobs 2] [--quick]

Every variant is trained by `models.pretrain` with several seeds and measured as in `quality.py`: GAUC of SimScore on
later pages, 95 % intervals by a bootstrap over users with seeds averaged, differences paired. Runs that are done are
kept in the work directory, so that an interrupted study goes on.
"""

import argparse
import statistics
import time

import numpy as np

from benchmarks.hm.runs import TEST, VALIDATION, open_dataset, run_study, study_parser, train_runs
from benchmarks.hm.similarity_pages import read_pages, similarity_aucs, user_bootstrap

VARIANTS = {
    "COURIER": [],
    "w/o UCS": ["courier.click_sequence=false"],
    "w/o Contrast": ["courier.objective=similarity"],
    "w/o Reconstruction": ["courier.reconstruction=self_attention"],
    "w/o Neg PV": ["courier.negative_candidates=false"],
    "projection head": ["courier.projection_head=true"],
    "hinge loss": ["courier.objective=hinge"],
}
SPLITS = {"validation": VALIDATION, "test": TEST}


def study(args: argparse.Namespace) -> dict:
    """Measures everything, prints the table and returns the result."""
    dataset = open_dataset(args.source, args.work_dir)
    print(f"notice: {dataset.manifest.notice}", flush=True)
    has_image = dataset.image_index()["shard"].to_numpy() >= 0
    splits = {name: read_pages(dataset, split, has_image) for name, split in SPLITS.items()}
    variants = {name: [*args.set, *changes] for name, changes in VARIANTS.items()}
    aucs = {split: {name: [] for name in variants} for split in splits}
    seconds = {name: [] for name in variants}
    start = time.monotonic()
    runs = train_runs(dataset, args.work_dir, args.config, variants, args.seeds, args.jobs)
    for name, seed, run in runs:
        seconds[name].append(run.seconds)
        for split, pages in splits.items():
            aucs[split][name].append(similarity_aucs(run.embeddings, pages))
        measured = ", ".join(f"{split} {aucs[split][name][-1].mean():.4f}" for split in splits)
        print(f"{name}, seed {seed}: GAUC {measured} ({(time.monotonic() - start) / 60:.0f} min so far)", flush=True)

    result = {"notice": dataset.manifest.notice, "splits": list(splits), "seeds": args.seeds}
    for split, pages in splits.items():
        mean = {name: np.mean(seeds, axis=0) for name, seeds in aucs[split].items()}
        print(f"\n{split}: {len(pages.user)} pages of {len(np.unique(pages.user))} users")
        print(f"{'':20s}{'GAUC':26s}{'over seeds':14s}{'less COURIER':28s}seconds")
        result[split] = {"pages": len(pages.user)}
        for name, seeds in aucs[split].items():
            of_seed = [page_values.mean() for page_values in seeds]
            spread = f"+- {statistics.stdev(of_seed):.4f}" if len(of_seed) > 1 else ""
            gauc = user_bootstrap(mean[name], pages.user)
            less = user_bootstrap(mean[name] - mean["COURIER"], pages.user)
            difference = f"{less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]" if name != "COURIER" else ""
            print(f"{name:20s}{gauc!s:26s}{spread:14s}{difference:28s}{statistics.fmean(seconds[name]):.0f}")
            result[split][name] = {
                "gauc": round(gauc.mean, 4),
                "gauc_interval": [round(gauc.low, 4), round(gauc.high, 4)],
                "over_seeds": statistics.stdev(of_seed) if len(of_seed) > 1 else None,
                "less_courier": round(less.mean, 4),
                "less_courier_interval": [round(less.low, 4), round(less.high, 4)],
                "seconds": round(statistics.fmean(seconds[name])),
            }
    print(f"mean of {args.seeds} seeds, {args.jobs} runs at a time; {dataset.manifest.notice}")
    return result


if __name__ == "__main__":
    run_study("encoder_ablations", study, study_parser(__doc__))
