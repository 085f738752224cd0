"""Makes the tables of figures from `benchmarks/results/*.json`: nobody types them.

    python -m benchmarks.render_results [--check]

It writes `docs/results.md` whole, and the parts between `<!-- results: NAME -->` and `<!-- end of results -->` in
`README.md` and `benchmarks/README.md`. With `--check` it writes nothing and fails where a file is not what it would
write.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.base import RESULTS, ROOT
from benchmarks.catalogue import BENCHMARKS, Benchmark
from benchmarks.tables.cells import difference, number, table, times
from benchmarks.tables.registry import TABLES

RESULTS_PAGE = Path("docs/results.md")
SINGLE_RUNS = "single_runs"
"""Comparisons that no benchmark repeats; a file of the same folder."""

_INTRODUCTION = """\
What was measured, by which command, when, on what machine and at which commit. Every table is made from a file of
[benchmarks/results](../benchmarks/results); [benchmarks/README.md](../benchmarks/README.md) says how to repeat it.
Intervals in brackets are 95 %, by a bootstrap over users; differences are paired, and bold where the interval is on one
side of zero. GAUC is the mean AUC of the pages with clicked and unclicked candidates. Speed on shared machines varies:
compare columns, not machines."""


def read_results() -> dict[str, dict[str, Any]]:
    """All results by name, `single_runs` among them."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def duration(seconds: float) -> str:
    """Seconds in words: in minutes, from one and a half on."""
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def provenance(result: Mapping[str, Any]) -> str:
    """Where the figures of a result come from."""
    seconds = result["seconds"]
    parts = [
        f"`{result['command']}`",
        f"measured on {result['date']} at commit {result['commit']}",
        result["machine"],
        *([f"against {result['peer']}"] if result["peer"] else []),
        *([duration(seconds)] if seconds and not result.get("resumed") else []),
    ]
    text = "; ".join(parts) + "."
    if result.get("resumed"):
        text += f" Resumed: an earlier run had done a part of it, and its {seconds} seconds are of the rest."
    if result.get("copied"):
        text += " From the notes of that day: the commit is the one that recorded the figures."
    return text


def results_page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole of `docs/results.md`."""
    blocks = [
        "<!-- Made by `python -m benchmarks.render_results` from benchmarks/results/*.json; do not edit. -->",
        "# Results",
        _INTRODUCTION,
    ]
    for name, benchmark in BENCHMARKS.items():
        if name not in results:
            continue
        result = results[name]
        blocks += [
            f"## {benchmark.title}",
            f"{result['shows'][0].upper()}{result['shows'][1:]}.",
            TABLES[name](result["figures"]),
            *result["remarks"],
            f"*{provenance(result)}*",
        ]
    single = results[SINGLE_RUNS]
    columns = ("setting", "measured", "without", "with", "seeds")
    rows = [[each[column] for column in columns] for each in single["comparisons"]]
    blocks += [f"## {single['title']}", *single["remarks"], table(columns, rows)]
    return "\n\n".join(blocks) + "\n"


def headline(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of the README."""
    figures = {name: result["figures"] for name, result in results.items() if name in BENCHMARKS}
    pictures, hm = figures["pictures_sample"], figures["pictures_hm"]
    ranker, kuai, served = figures["ranker_speed"], figures["kuairand"], figures["serving"]
    clusters, encoder, quality = figures["clustering"], figures["encoder_speed"], figures["encoder_quality"]
    gpu = figures["encoder_gpu"]
    of_kuairand = [kuai["systems"][name]["differences"]["auc"] for name in ("ours", "ours_joined")]
    rows = [
        [
            "cluster IDs in the ranker, sample (simulated clicks): GAUC over items unseen in training, less none",
            difference(*pictures["cluster_id"]["unseen_items"]["gain_over_none"]),
        ],
        [
            "the same on H&M (sampled negatives), beside seven catalogue attributes, whitened",
            difference(*hm["cluster_id, whitened"]["unseen"]["gain_over_none"]),
        ],
        [
            "similarity by the encoder less that by its random weights, H&M: GAUC",
            difference(quality["gain_over_random"], *quality["gain_over_random_interval"]),
        ],
        [
            f"ranker of one network less FuxiCTR's DIN, KuaiRand: AUC; {kuai['members']} joined less that one",
            "; ".join(f"{gap['difference']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" for gap in of_kuairand),
        ],
        [
            "training the ranker, histories of 1,000: candidates per second against DeepCTR's DIN (like for like)",
            f"{times(ranker['train_recent_speedup_deepctr_t1000'])} "
            f"({ranker['like_for_like_speedup_deepctr_t1000']:.2g})",
        ],
        [
            "a served page of 200 candidates, median; DeepCTR's DIN on the same server",
            f"{served['p50_ms']:.1f} ms; {served['deepctr_p50_ms']:.0f} ms",
        ],
        [
            "k-means, 1e6 points into 1e4 clusters, against FAISS",
            f"{times(clusters['kmeans_speedup_faiss'])}",
        ],
        [
            "training Swin-T on two cores against PyTorch; on one H200 against `torch.compile`",
            f"{times(encoder['images_per_s_ratio_torch'])}; {times(gpu['images_per_s_ratio_torch_compiled'])}",
        ],
        [
            "a build of 20 million impressions on two workers, of the time of a Polars script",
            number(figures["data_job"]["wall_ratio_polars_20m"], 2),
        ],
    ]
    return table(("", "measured"), rows)


def index(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of `benchmarks/README.md`."""

    def full(benchmark: Benchmark) -> str:
        result = results.get(benchmark.name, {})
        seconds = result.get("seconds")
        if result.get("resumed"):
            return f"about {benchmark.full} (estimated: only a resumed run was timed)"
        return duration(seconds) if seconds else f"about {benchmark.full}"

    rows = [
        [
            f"`{benchmark.name}`",
            f"`{benchmark.module}`",
            benchmark.shows,
            benchmark.needs,
            f"about {benchmark.quick}",
            full(benchmark),
        ]
        for benchmark in BENCHMARKS.values()
    ]
    return table(("name", "module", "shows", "needs", "`--quick`", "in full"), rows)


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """The text with what is between its markers made anew."""

    def made(found: re.Match[str]) -> str:
        return f"{found[1]}\n{tables[found[2]]}\n{found[3]}"

    return re.sub(r"(<!-- results: (\w+) -->)\n.*?(<!-- end of results -->)", made, text, flags=re.DOTALL)


def rendered() -> dict[Path, str]:
    """What the files should hold, by path from the root."""
    results = read_results()
    pages = {RESULTS_PAGE: results_page(results)}
    for path, tables in (
        (Path("README.md"), {"headline": headline(results)}),
        (Path("benchmarks/README.md"), {"index": index(results)}),
    ):
        pages[path] = with_tables((ROOT / path).read_text(), tables)
    return pages


def main() -> None:
    """Writes the files, or checks them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    options = parser.parse_args()
    stale = {
        path: text
        for path, text in rendered().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text
    }
    if options.check and stale:
        sys.exit(f"not up to date: {', '.join(map(str, stale))}; run python -m benchmarks.render_results")
    for path, text in stale.items():
        (ROOT / path).write_text(text)
        print(path)


if __name__ == "__main__":
    main()
