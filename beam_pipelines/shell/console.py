"""Console scripts: `courier-build` is `python -m beam_pipelines.build`, and so on for every command."""

import runpy
import sys
from pathlib import Path

COMMANDS = (
    "beam_pipelines.build",
    "beam_pipelines.check",
    "beam_pipelines.inspect",
    "beam_pipelines.datasets.hm",
    "beam_pipelines.datasets.kuairand",
    "beam_pipelines.datasets.movielens",
    "beam_pipelines.datasets.sample",
    "models.pretrain",
    "models.finetune",
    "models.embed",
    "models.whiten",
    "models.cluster",
    "models.neighbours",
    "models.train_retrieval",
    "models.train_ctr",
    "models.join_rankers",
    "models.evaluate",
    "models.ab_report",
    "export.saved_model",
    "export.retrieval",
    "export.serve",
    "export.client",
    "export.daily",
    "export.viewer",
    "export.endpoint_check",
    "export.trusted_digests",
)


def script_name(module: str) -> str:
    """The console script of a command's module: `courier-` and the last part of its name."""
    return "courier-" + module.rpartition(".")[2].replace("_", "-")


def main() -> None:
    """Runs the command whose script was called, as `python -m` would."""
    modules = {script_name(module): module for module in COMMANDS}
    runpy.run_module(modules[Path(sys.argv[0]).name], run_name="__main__", alter_sys=True)
