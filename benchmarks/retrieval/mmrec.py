"""MMRec's own recommenders on TikTok's public split, beside ours.

    make bench-env
    .venv-mmrec/bin/python -m pip install --no-build-isolation setuptools torch_scatter==2.1.2  # half an hour
    git clone https://github.com/enoche/MMRec ../MMRec
    python -m benchmarks.retrieval.mmrec [--mmrec DIR] [--source DIR] [--work-dir DIR] [--minutes M]

MMRec (PyTorch, GPL-3) runs as it is, in processes and an environment of its own; all that is given to it are files: the
interactions, pictures as its visual and sounds as its textual features, and the configuration. It ranks all items, as
we do, breaks ties by the order of items, and keeps the epoch with the highest recall@20 on the validation interactions.

Each model is trained with as many settings as ours, of its own grid (`SETTINGS`), with MMRec's own seed; the one with
the highest recall@20 on validation is in the table. Training ends ten epochs after the best one, or after 120, as ours
does. What is done is kept in the work directory, so that an interrupted benchmark goes on. `--minutes` begins no new
run after so long, `--methods` runs those alone, and the result tells of what there is. DualGNN is not among them: on a
CPU its code assigns a tensor to a parameter, which PyTorch refuses.
"""

import argparse
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.text_file import read_json, write_json
from beam_pipelines.shell.progress import progress_bar
from benchmarks.base import RESULTS, WORK, benchmark_parser, peer_python, run_benchmark, use_two_cores
from benchmarks.retrieval.runs import METRICS, TRAINING
from models.retrieval.interaction_file import read_interactions

Setting = Mapping[str, float | str]

_SLMREC: Setting = {"learning_rate": 0.001, "ssl_alpha": 0.01, "reg": 0.0001}
SETTINGS: Mapping[str, tuple[str, Sequence[Setting]]] = {
    "bpr": ("BPR", [{"reg_weight": value} for value in (0.1, 0.01, 1.0)]),
    "mmgcn": ("MMGCN", [{"learning_rate": 0.001, "reg_weight": value} for value in (1e-4, 1e-3, 1e-2)]),
    "lattice": ("LATTICE", [{"learning_rate": 0.001, "reg_weight": value} for value in (1e-4, 1e-5, 1e-3)]),
    "slmrec": ("SLMRec", [{**_SLMREC, "ssl_temp": value} for value in (0.2, 0.1, 0.5)]),
    "bm3": (
        "BM3",
        [{"reg_weight": 0.1, "n_layers": layers, "dropout": value} for layers, value in ((1, 0.3), (1, 0.5), (2, 0.3))],
    ),
    "mgcn": ("MGCN", [{"cl_loss": value} for value in (0.01, 0.001, 0.1)]),
}
"""By our name: theirs, and settings by the names of their grid."""

_WITHOUT_CUDA = Path(__file__).resolve().parent / "peers/without_cuda.py"
_DATA = "tiktok"
_COLUMNS = {"USER_ID_FIELD": "userID", "ITEM_ID_FIELD": "itemID", "TIME_FIELD": "timestamp"}
_FILES = {
    "inter_file_name": f"{_DATA}.inter",
    "vision_feature_file": "image_feat.npy",
    "text_feature_file": "audio_feat.npy",
}
_EPOCH = re.compile(r"valid result: *\n(.+)\n.*test result: *\n(.+)\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs what is missing and puts it beside our figures."""
    use_two_cores()
    if not (options.mmrec / "src/main.py").is_file():
        raise InputError(f"--mmrec must be a checkout of MMRec. Received: {options.mmrec}")
    work = options.work_dir / ("quick" if options.quick else "full")
    checkout = work / "checkout"
    if not checkout.exists():
        shutil.copytree(options.mmrec, checkout)
        write_data(options.source, checkout)
    found, until = {}, time.monotonic() + 60 * options.minutes
    for method in progress_bar(options.methods, desc="mmrec"):
        runs = []
        for number in range(1 if options.quick else len(SETTINGS[method][1])):
            path = work / f"{method}-{number}.json"
            if not path.exists() and time.monotonic() < until:
                write_json(path, _train(checkout, method, number, path.with_suffix(".log"), options.quick))
            if path.exists():
                runs.append(read_json(path))
        if runs:
            found[method] = max(runs, key=lambda run: run["validation"]["recall@20"]) | {"tried": len(runs)}
    ours = read_json(RESULTS / "retrieval_tiktok.json")["figures"]["methods"]
    return {
        "mmrec_commit": _commit(options.mmrec),
        "methods": {method: {"mmrec": run, "ours": ours[method]} for method, run in found.items()},
    }


def write_data(source: Path, checkout: Path) -> None:
    """Writes TikTok's files, and what MMRec has to know of them, into its checkout.

    Args:
        source: the public files.
        checkout: a copy of MMRec's repository.
    """
    interactions = read_interactions(source / f"{_DATA}.inter.csv.gz")
    folder = checkout / "data" / _DATA
    folder.mkdir(parents=True)
    parts = (interactions.train, interactions.validation, interactions.test)
    with open(folder / _FILES["inter_file_name"], "w") as file:
        file.write("\t".join([*_COLUMNS.values(), "x_label"]) + "\n")
        for label, pairs in enumerate(parts):
            file.writelines(
                f"{interactions.user_ids[user]}\t{interactions.item_ids[item]}\t0\t{label}\n"
                for user, item in zip(pairs.users, pairs.items, strict=True)
            )
    for name in (_FILES["vision_feature_file"], _FILES["text_feature_file"]):
        np.save(folder / name, np.load(source / name).astype(np.float32))
    config = {**_COLUMNS, **_FILES, "field_separator": "\t", "filter_out_cod_start_users": True}
    (checkout / f"src/configs/dataset/{_DATA}.yaml").write_text(yaml.safe_dump(config))


def write_setting(checkout: Path, method: str, number: int, quick: bool = False) -> None:
    """Writes the configuration of a model: MMRec's own, with one setting of its grid and our epochs and patience.

    Args:
        checkout: a copy of MMRec's repository.
        method: our name of it.
        number: of the setting.
        quick: whether to train for two epochs.
    """
    model, settings = SETTINGS[method]
    path = checkout / f"src/configs/model/{model}.yaml"
    config = yaml.safe_load(path.read_text())
    if set(config["hyper_parameters"]) != set(settings[number]):
        raise InputError(f"MMRec tunes {config['hyper_parameters']} of {model}; ours are {sorted(settings[number])}")
    config |= {name: [value] for name, value in settings[number].items()}
    config |= {"use_gpu": False, "epochs": 2 if quick else TRAINING["epochs"], "stopping_step": TRAINING["patience"]}
    path.write_text(yaml.safe_dump(config))


def best_epoch(log: str) -> dict[str, Any]:
    """The epoch with the highest recall@20 on validation, from what MMRec prints.

    Args:
        log: its output.

    Returns:
        `validation` and `test` with `METRICS`, and the number of `epochs`.

    Raises:
        InputError: there is no epoch.
    """
    epochs = [[_metrics(line) for line in lines] for lines in _EPOCH.findall(log)]
    if not epochs:
        raise InputError("MMRec has printed no result")
    validation, test = max(epochs, key=lambda epoch: epoch[0]["recall@20"])
    return {
        "validation": {name: validation[name] for name in METRICS},
        "test": {name: test[name] for name in METRICS},
        "epochs": len(epochs),
    }


def _train(checkout: Path, method: str, number: int, log: Path, quick: bool) -> dict[str, Any]:
    write_setting(checkout, method, number, quick)
    start = time.perf_counter()
    model, settings = SETTINGS[method]
    _run([str(_WITHOUT_CUDA), "main.py", "-m", model, "-d", _DATA], checkout / "src", log)
    return best_epoch(log.read_text()) | {"setting": settings[number], "seconds": time.perf_counter() - start}


def _run(words: list[str], folder: Path, log: Path) -> None:
    with open(log, "w") as file:
        done = subprocess.run(
            [str(peer_python("mmrec")), *words], cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise InputError(f"{' '.join(words)} failed; {log} ends with: {log.read_text().strip().splitlines()[-1]}")


def _metrics(line: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"([a-z]+@\d+): (\d+\.\d+)", line)}


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "one setting, two epochs")
    parser.add_argument("--mmrec", type=Path, default=Path("../MMRec"), help="a checkout of MMRec")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/tiktok_mm"), help="the public files")
    parser.add_argument("--work-dir", type=Path, default=WORK / "retrieval_mmrec", help="where runs are kept")
    parser.add_argument("--minutes", type=float, default=10_000, help="after which no run begins")
    parser.add_argument("--methods", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="that are run")
    run_benchmark("retrieval_mmrec", parser, measure)
