"""The table of each benchmark, in Markdown, from the figures of its result."""

from collections.abc import Callable

from benchmarks.tables.cells import Figures
from benchmarks.tables.clustering import clustering, label_consistency, replaced_ids
from benchmarks.tables.daily import daily
from benchmarks.tables.data_job import data_job, data_job_clusters
from benchmarks.tables.encoder import (
    downstream_tasks,
    encoder_ablations,
    encoder_chain,
    encoder_fine_tuning,
    encoder_fine_tuning_speed,
    encoder_gpu,
    encoder_methods,
    encoder_published,
    encoder_quality,
    encoder_speed,
)
from benchmarks.tables.experiments import experiment_coverage, off_policy
from benchmarks.tables.pictures import (
    paper_table_10,
    pictures_hm,
    pictures_ideas,
    pictures_published,
    pictures_sample,
    pictures_sample_tuned,
)
from benchmarks.tables.ranker import kuairand, kuairand_tasks, position_bias, ranker_speed
from benchmarks.tables.retrieval import (
    retrieval_amazon,
    retrieval_hm,
    retrieval_mmrec,
    retrieval_random_split,
    retrieval_speed,
    retrieval_tiktok,
)
from benchmarks.tables.serving import recommend, serving
from benchmarks.tables.storage import remote_training

TABLES: dict[str, Callable[[Figures], str]] = {
    table_of.__name__: table_of
    for table_of in (
        data_job,
        data_job_clusters,
        encoder_speed,
        encoder_fine_tuning_speed,
        encoder_gpu,
        encoder_quality,
        encoder_published,
        encoder_fine_tuning,
        downstream_tasks,
        encoder_ablations,
        encoder_methods,
        encoder_chain,
        clustering,
        label_consistency,
        replaced_ids,
        ranker_speed,
        kuairand,
        kuairand_tasks,
        position_bias,
        pictures_sample,
        pictures_sample_tuned,
        pictures_hm,
        pictures_published,
        pictures_ideas,
        retrieval_speed,
        retrieval_amazon,
        retrieval_tiktok,
        retrieval_mmrec,
        retrieval_hm,
        retrieval_random_split,
        paper_table_10,
        remote_training,
        serving,
        recommend,
        experiment_coverage,
        off_policy,
        daily,
    )
}
"""By name of the benchmark, in the order of the page."""
