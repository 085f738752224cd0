"""All benchmarks: what each one shows, against what, what it needs and how long it takes."""

from typing import NamedTuple


class Benchmark(NamedTuple):
    """One benchmark.

    Attributes:
        name: of its result, `results/NAME.json`, and of its target, `make bench-NAME`.
        module: what `python -m` runs.
        title: a few words.
        shows: what is compared with what.
        peers: distributions on the other side, of which the result tells the versions.
        environments: of `make bench-env` that it needs: `bench`, `deepctr`, `fuxictr`, `mmrec`.
        needs: what a checkout does not have; `make bench` leaves such benchmarks out.
        quick: how long `--quick` takes on two cores.
        full: how long it takes without.
    """

    name: str
    module: str
    title: str
    shows: str
    peers: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    needs: str = ""
    quick: str = ""
    full: str = ""


_HM = "H&M's files"

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "data_job",
            "benchmarks.data_job.build",
            "The data job",
            "wall time and memory of a build beside a Polars script that writes the same records in memory",
            peers=("polars",),
            environments=("bench",),
            quick="3 minutes",
            full="15 minutes",
        ),
        Benchmark(
            "data_job_clusters",
            "benchmarks.data_job.clusters",
            "The data job on clusters",
            "wall time and bytes moved of a build on Flink and on Spark beside the same build in process",
            needs="make cluster-env, and root",
            quick="4 minutes",
            full="6 minutes",
        ),
        Benchmark(
            "encoder_speed",
            "benchmarks.encoder.speed",
            "Training the encoder on a CPU",
            "steps of Swin-T and of COURIER beside transformers' SwinModel in PyTorch on equal weights",
            peers=("torch", "transformers"),
            environments=("bench",),
            quick="10 minutes",
            full="an hour",
        ),
        Benchmark(
            "encoder_fine_tuning_speed",
            "benchmarks.encoder.fine_tuning_speed",
            "Fine-tuning published weights on a CPU",
            "a step of EfficientNet-Lite0 beside the same network in PyTorch on equal weights",
            peers=("torch", "efficientnet_lite_pytorch"),
            environments=("bench",),
            quick="2 minutes",
            full="4 minutes",
        ),
        Benchmark(
            "encoder_gpu",
            "benchmarks.encoder.gpu",
            "Training the encoder on a GPU",
            "the same steps by Keras' JAX backend beside PyTorch on one GPU",
            peers=("torch", "transformers"),
            needs="a GPU, JAX and PyTorch for it",
            quick="3 minutes",
            full="6 minutes",
        ),
        Benchmark(
            "encoder_quality",
            "benchmarks.encoder.quality",
            "What the encoder learns",
            "how well similarity to the click history orders later pages of H&M, beside random weights, pixels and "
            "catalogue attributes",
            peers=("scikit-learn",),
            needs=_HM,
            quick="5 minutes",
            full="20 minutes",
        ),
        Benchmark(
            "encoder_published",
            "benchmarks.encoder.published",
            "What published weights know",
            "how well features of published ImageNet weights order the same pages of H&M before any training, as they "
            "are and whitened",
            peers=("scikit-learn",),
            needs=_HM,
            quick="10 minutes",
            full="25 minutes",
        ),
        Benchmark(
            "encoder_fine_tuning",
            "benchmarks.encoder.fine_tuning",
            "COURIER fine-tuned from published weights",
            "whether COURIER, trained on from these features by heads or by the last stages, is ahead of them on the "
            "same pages of H&M",
            peers=("scikit-learn",),
            needs=_HM,
            quick="5 minutes",
            full="20 minutes",
        ),
        Benchmark(
            "downstream_tasks",
            "benchmarks.encoder.downstream_tasks",
            "Fine-tuning for classification and image search",
            "top-1 and top-5 of classification and Identity Recall of image search from random, published and "
            "pre-trained weights: like Tables 5 and 6 of the companion article",
            needs=_HM,
            quick="15 minutes",
            full="an hour",
        ),
        Benchmark(
            "encoder_ablations",
            "benchmarks.encoder.ablations",
            "What the parts of COURIER do",
            "the paper's Table 6 and two more variants on H&M, with equal data and budget",
            needs=_HM,
            quick="15 minutes",
            full="2 hours",
        ),
        Benchmark(
            "encoder_methods",
            "benchmarks.encoder.methods",
            "What each way to pre-train learns in a planted world",
            "KNN consistency of planted kinds beside random weights, and time and memory of a step beside COURIER's",
            quick="5 minutes",
            full="an hour",
        ),
        Benchmark(
            "encoder_chain",
            "benchmarks.encoder.chain",
            "The chain of commands with each way to pre-train",
            "that the commands from `models.pretrain` to `export.saved_model` run with every method on the shipped "
            "sample; not which method is best",
            quick="4 minutes",
            full="15 minutes",
        ),
        Benchmark(
            "clustering",
            "benchmarks.clustering.speed",
            "Clustering and assignment",
            "k-means and the nearest of many centers beside FAISS: time, closeness to exact, memory, the paper's size",
            peers=("faiss-cpu",),
            environments=("bench",),
            quick="5 minutes",
            full="40 minutes",
        ),
        Benchmark(
            "label_consistency",
            "benchmarks.clustering.label_consistency",
            "What embeddings know of labels",
            "share of the nearest neighbours on H&M with the same label, before and after whitening",
            needs=_HM,
            quick="10 minutes",
            full="30 minutes",
        ),
        Benchmark(
            "replaced_ids",
            "benchmarks.clustering.replaced_ids",
            "Replacing all cluster IDs (H&M)",
            "a ranker warm-started with old IDs, new ones from zero, and new ones in the place of old ones; and how "
            "far items that have come since are from old centers",
            needs=f"{_HM}, and what benchmarks.pictures.published has made",
            quick="4 minutes",
            full="10 minutes",
        ),
        Benchmark(
            "ranker_speed",
            "benchmarks.ranker.speed",
            "Training and scoring speed of the ranker",
            "candidates per second, processor time and memory beside DIN of DeepCTR and of FuxiCTR",
            peers=("deepctr", "fuxictr"),
            environments=("deepctr", "fuxictr"),
            quick="5 minutes",
            full="15 minutes",
        ),
        Benchmark(
            "kuairand",
            "benchmarks.ranker.kuairand",
            "Accuracy of the ranker on real impressions",
            "rankers on KuaiRand-Pure beside FuxiCTR's DIN on the same features, both tuned alike",
            peers=("fuxictr",),
            environments=("fuxictr",),
            needs="KuaiRand's files",
            quick="10 minutes",
            full="3 hours",
        ),
        Benchmark(
            "kuairand_tasks",
            "benchmarks.ranker.kuairand_tasks",
            "Three tasks on real impressions",
            "clicks, long views and long visits on KuaiRand-Pure in two windows, and long views by the public protocol "
            "beside a factorisation machine",
            environments=("fuxictr",),
            needs="KuaiRand's files",
            quick="10 minutes",
            full="30 minutes",
        ),
        Benchmark(
            "position_bias",
            "benchmarks.ranker.position_bias",
            "What a ranker learns of positions",
            "the effect of the position on clicks as `ranker.position_bias` learns it from a policy's log, beside a "
            "log whose items were drawn at random",
            needs="the Open Bandit sample",
            quick="1 minute",
            full="2 minutes",
        ),
        Benchmark(
            "pictures_sample",
            "benchmarks.pictures.sample",
            "What pictures add, shipped sample",
            "rankers with each image feature on the same pages: simulated behaviour on real photos",
            quick="5 minutes",
            full="15 minutes",
        ),
        Benchmark(
            "pictures_sample_tuned",
            "benchmarks.pictures.sample_tuned",
            "How far a ranker comes on the shipped sample",
            "rankers with settings chosen for the sample beside what a shopper's true taste, and what clicks tell of "
            "it, would reach: simulated behaviour on real photos",
            quick="3 minutes",
            full="30 minutes",
        ),
        Benchmark(
            "pictures_hm",
            "benchmarks.pictures.hm",
            "What pictures add, H&M",
            "rankers with each image feature beside gradient boosting, with and without catalogue attributes",
            peers=("scikit-learn",),
            needs=_HM,
            quick="30 minutes",
            full="5 hours",
        ),
        Benchmark(
            "pictures_published",
            "benchmarks.pictures.published",
            "What published weights add to the ranker on H&M",
            "rankers with whitened features of published ImageNet weights beside ones without pictures",
            needs=_HM,
            quick="20 minutes",
            full="an hour",
        ),
        Benchmark(
            "pictures_ideas",
            "benchmarks.pictures.ideas",
            "What further ways to read pictures add on H&M",
            "one further way to read pictures at a time, beside cosines, on validation pages",
            needs=_HM,
            quick="20 minutes",
            full="2 hours",
        ),
        Benchmark(
            "retrieval_speed",
            "benchmarks.retrieval.speed",
            "Training speed of a graph recommender",
            "steps of LightGCN with BPR on Amazon Sports beside an equal script in PyTorch on equal weights",
            peers=("torch",),
            environments=("bench",),
            needs="Amazon's public splits",
            quick="1 minute",
            full="2 minutes",
        ),
        Benchmark(
            "retrieval_amazon",
            "benchmarks.retrieval.amazon",
            "BPR on Amazon Baby and Sports",
            "recall and NDCG over all items beside what MMRec publishes for splits of the same sizes",
            needs="Amazon's public splits",
            quick="1 minute",
            full="20 minutes",
        ),
        Benchmark(
            "retrieval_tiktok",
            "benchmarks.retrieval.tiktok",
            "Recommenders on TikTok",
            "recall and NDCG over all items of recommenders of the paper's Table 2, tuned on validation interactions",
            needs="TikTok's public vectors",
            quick="4 minutes",
            full="an hour",
        ),
        Benchmark(
            "retrieval_mmrec",
            "benchmarks.retrieval.mmrec",
            "MMRec's own recommenders on TikTok",
            "the recommenders of MMRec's repository on the same files, beside ours",
            peers=("torch",),
            environments=("mmrec",),
            needs="TikTok's public vectors, and a checkout of MMRec",
            quick="15 minutes",
            full="2 hours",
        ),
        Benchmark(
            "retrieval_hm",
            "benchmarks.retrieval.hm",
            "Recommenders on H&M, with and without COURIER",
            "recommenders of the paper's Table 2 and two towers on H&M with features as published, and with COURIER's "
            "embedding beside them",
            needs=_HM,
            quick="5 minutes",
            full="2 hours",
        ),
        Benchmark(
            "retrieval_random_split",
            "benchmarks.retrieval.random_split",
            "Recommenders on H&M and MovieLens divided at random, with and without COURIER",
            "recommenders of the paper's Table 2 with features as published, and with COURIER's embedding beside them, "
            "each user's interactions divided at random",
            needs="H&M's files, and MovieLens with posters",
            quick="5 minutes",
            full="an hour",
        ),
        Benchmark(
            "paper_table_10",
            "benchmarks.pictures.paper_table_10",
            "The paper's Table 10",
            "the paper's ranker with vectors, cosines, cluster IDs and hash IDs beside ours, on H&M and the sample",
            needs=_HM,
            quick="15 minutes",
            full="an hour",
        ),
        Benchmark(
            "remote_training",
            "benchmarks.storage.remote_training",
            "Training on a dataset in an object store",
            "steps of pre-training and of the ranker on a dataset in S3 beside the same one on the local disk",
            quick="3 minutes",
            full="6 minutes",
        ),
        Benchmark(
            "serving",
            "benchmarks.serving.load",
            "Serving",
            "latency of a page beside DeepCTR's DIN on one server, load with hot swaps, cold start, a million items",
            peers=("deepctr",),
            environments=("deepctr",),
            quick="5 minutes",
            full="10 minutes",
        ),
        Benchmark(
            "recommend",
            "benchmarks.serving.recommend",
            "Retrieve, then rank",
            "how much of what is clicked on later pages of the sample a two-tower retriever finds among all items, "
            "where the ranker puts it, and how long each takes",
            quick="5 minutes",
            full="10 minutes",
        ),
        Benchmark(
            "experiment_coverage",
            "benchmarks.experiments.coverage",
            "Experiments on simulated shoppers",
            "how often the intervals of `models.ab_report` hold a known effect, and equal arms differ, on simulated "
            "shoppers",
            quick="1 minute",
            full="12 minutes",
        ),
        Benchmark(
            "off_policy",
            "benchmarks.experiments.off_policy",
            "Off-policy estimates on real logs",
            "the value of one policy of the Open Bandit sample, estimated from the log of the other, beside its own "
            "mean",
            needs="the Open Bandit sample",
            quick="5 seconds",
            full="5 seconds",
        ),
        Benchmark(
            "daily",
            "benchmarks.daily.fourteen_days",
            "Day after day",
            "fourteen simulated days of `export.daily` with a growing catalogue and bad days, while a server answers; "
            "what learning day by day keeps of a training from the beginning",
            quick="6 minutes",
            full="30 minutes",
        ),
    )
}
