"""The Beam data job against its peer in Polars: wall time, peak memory, and equal records.

    make bench-env
    .venv/bin/python -m benchmarks.data_job.build [--quick] [--work-dir DIR] [--repeats 5] [--against COMMIT]

On simulated logs (`impression_logs.py`) of 2 and 20 million impressions, both sides run as a user would run them, one
after the other, each in processes of its own, on the first two cores: `peers/polars_pages.py`, and
`beam_pipelines.build` in process at 2 million and with two workers at 20 million. `polars` encodes its records page by
page; `polars_columns` is the same script with the job's own encoder of whole columns. A ratio is the median over the
pairs of runs. Memory is the largest sum of the proportional set sizes of all processes of a run. That both wrote the
same records is checked.

`--against` times the job of an older commit in the same turns, with the same interpreter and packages:
`wall_ratio_before` and `cpu_ratio_before` are the present job's time over its time.

And on one core: pictures per processor second of the build's picture step as a share of those of decoding and encoding
alone.

`--quick` takes a tenth of 2 million and leaves out 20 million, whose figures are null then.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image
from tqdm import tqdm

from beam_pipelines.datasets.sample_logs import SAMPLE
from beam_pipelines.exchange import ScratchFiles
from beam_pipelines.format.errors import InputError
from beam_pipelines.format.manifest import PRETRAINING, SPLITS
from beam_pipelines.format.page_reader import packed_page
from beam_pipelines.format.tfrecord import read_records
from beam_pipelines.images.normalisation import normalise_image
from beam_pipelines.images.transforms import ImagePlan, store_images
from beam_pipelines.picture_plan import PicturePlan
from benchmarks.base import ROOT, benchmark_parser, peer_command, run_benchmark, use_two_cores
from benchmarks.data_job.impression_logs import SPLIT_BY_TIME, write_logs

TWO_WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
IMAGE_SIDE = 256
IMAGES = 1000
IMAGE_SIZE = (600, 800)


class Case(NamedTuple):
    """One size of logs: its name in the result, impressions, and how our job runs."""

    name: str
    impressions: int
    options: Sequence[str]


CASES = (Case("2m", 2_000_000, ()), Case("20m", 20_000_000, TWO_WORKERS))
QUICK_SHARE = 10


class Side(NamedTuple):
    """What is timed: a name, a command, the checkout whose code it runs, and what it writes."""

    name: str
    command: Sequence[str]
    checkout: Path
    output: Path


class Run(NamedTuple):
    """What one run took: wall and processor seconds, and the peak memory in GB."""

    seconds: float
    cpu_seconds: float
    peak_gb: float


def measured(command: Sequence[str], checkout: Path) -> Run:
    """Runs a command on the code of a checkout, in a session of its own; its output is shown only if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=checkout, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        with _memory(process.pid) as peak:
            code = process.wait()
            seconds = time.perf_counter() - start
        if code:
            output.seek(0)
            sys.exit(output.read().decode(errors="replace"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(seconds, cpu, peak() / 1e9)


@contextlib.contextmanager
def _memory(session: int) -> Iterator[Callable[[], int]]:
    """Samples the memory of all processes of a session; gives a function that returns the largest sum in bytes."""
    ended = threading.Event()
    largest = 0

    def sample() -> None:
        nonlocal largest
        while not ended.wait(0.2):
            largest = max(largest, sum(_proportional_bytes(process) for process in _processes(session)))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: largest
    finally:
        ended.set()
        sampler.join()


def _processes(session: int) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                yield process


def _proportional_bytes(process: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The code of a commit in a directory of its own while the block runs."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "checkout"
        git = ("git", "-C", str(ROOT), "worktree")
        done = subprocess.run([*git, "add", "--detach", path, commit], capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"`against`: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield path
        finally:
            subprocess.run([*git, "remove", "--force", path], check=True)


def compare_builds(case: Case, work: Path, repeats: int, before: Path | None) -> dict[str, float | int]:
    """Runs all sides `repeats` times in turns, every other time in the opposite order.

    Args:
        case: the size.
        work: where logs and outputs are.
        repeats: runs of each side.
        before: the checkout of an older commit, to be timed as well.

    Returns:
        The figures of one size, under their names in the result.
    """
    logs = work / f"logs-{case.impressions}"
    ours, old, peer = (work / f"{name}-{case.impressions}" for name in ("beam", "before", "polars"))
    if not (logs / "impressions.parquet").exists():
        write_logs(logs, case.impressions)
    shared = ("--logs", str(logs), "--split-by-time", ",".join(SPLIT_BY_TIME))
    polars = peer_command("bench", "benchmarks.data_job.peers.polars_pages", "--output", peer, *shared)
    beam = (sys.executable, "-m", "beam_pipelines.build", "--runner=DirectRunner", *case.options, *shared)
    sides = [Side("polars", polars, ROOT, peer), Side("polars_columns", (*polars, "--encode", "columns"), ROOT, peer)]
    if before is not None:
        sides.append(Side("before", (*beam, "--output", str(old)), before, old))
    sides.append(Side("beam", (*beam, "--output", str(ours)), ROOT, ours))
    runs: dict[str, list[Run]] = {side.name: [] for side in sides}
    with tqdm(total=len(sides) * repeats, desc=f"{case.name}: building in turns", unit="run") as bar:
        for turn in range(repeats):
            for side in sides[::-1] if turn % 2 else sides:
                shutil.rmtree(side.output, ignore_errors=True)
                runs[side.name].append(measured(side.command, side.checkout))
                bar.update()
    for split in (*SPLITS, PRETRAINING):
        folder = PRETRAINING if split == PRETRAINING else "pages"
        mine = sorted((ours / folder).glob("*" if split == PRETRAINING else f"{split}-*"))
        if digest(mine) != digest([peer / f"{split}.tfrecord"]):
            sys.exit(f"{case.name}: the {split} records of the two sides differ; see {work}")
    figures: dict[str, float | int] = {}
    for side in sides[:-1]:
        pairs = list(zip(runs["beam"], runs[side.name], strict=True))
        wall = statistics.median(mine.seconds / other.seconds for mine, other in pairs)
        figures[f"wall_ratio_{side.name}_{case.name}"] = wall
        if side.name == "before":
            cpu = statistics.median(mine.cpu_seconds / other.cpu_seconds for mine, other in pairs)
            figures[f"cpu_ratio_before_{case.name}"] = cpu
    for side in reversed(sides):
        suffix = "" if side.name == "beam" else f"_{side.name}"
        of_side = runs[side.name]
        figures[f"peak_gb{suffix}_{case.name}"] = max(run.peak_gb for run in of_side)
        figures[f"seconds{suffix}_{case.name}"] = statistics.median(run.seconds for run in of_side)
        figures[f"cpu_seconds{suffix}_{case.name}"] = statistics.median(run.cpu_seconds for run in of_side)
    figures = {name: round(value, 3) for name, value in figures.items()}
    figures[f"largest_bucket_impressions_{case.name}"] = largest_bucket(ours)
    print(f"{case.name}: equal records; {json.dumps(figures)}", flush=True)
    return figures


def digest(files: Iterable[Path]) -> tuple[int, int]:
    """Identifies records whatever their order: how many there are, and the sum of a hash of each."""
    count = total = 0
    for path in files:
        for record in read_records(path):
            count += 1
            total += int.from_bytes(hashlib.blake2b(record, digest_size=16).digest(), "little")
    return count, total % (1 << 128)


def largest_bucket(dataset: Path) -> int:
    """Impressions of the bucket of users whose pages are the most bytes."""
    buckets: dict[str, list[Path]] = {}
    for shard in (dataset / "pages").glob("*.tfrecord"):
        buckets.setdefault(shard.stem.split("-")[1], []).append(shard)
    largest = max(buckets.values(), key=lambda shards: sum(shard.stat().st_size for shard in shards))
    # A float feature of the candidates: four bytes each.
    return sum(len(packed_page(record)["dwell"]) // 4 for shard in largest for record in read_records(shard))


def write_images(directory: Path, rng: np.random.Generator) -> list[str]:
    """Writes pictures of a catalogue's usual size: those of the sample, enlarged, with noise of their own."""
    directory.mkdir(parents=True)
    names = []
    with zipfile.ZipFile(SAMPLE / "photos.zip") as photos:
        for name in tqdm(photos.namelist()[:IMAGES], desc="simulating pictures"):
            image = Image.open(io.BytesIO(photos.read(name))).convert("RGB").resize(IMAGE_SIZE)
            noise = rng.integers(-6, 7, size=(*IMAGE_SIZE[::-1], 3), dtype=np.int8)
            names.append(f"{len(names)}.jpg")
            Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(directory / names[-1])
    return names


def image_rates(images: Path, names: list[str], dataset: Path) -> tuple[float, float]:
    """Pictures per processor second of the build's picture step, and of decoding and encoding alone, on one core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sources = [(images / name).read_bytes() for name in names]
    start = time.process_time()
    for source in sources:
        normalise_image(source, IMAGE_SIDE, "jpeg")
    alone = len(names) / (time.process_time() - start)
    start = time.process_time()
    exchange, pictures = ScratchFiles(dataset / "scratch"), PicturePlan(dataset / "plan")
    exchange.open()
    plan = ImagePlan(
        directory=dataset,
        exchange=exchange,
        pictures=pictures,
        batches=pictures.write_pictures(names, []),
        images=images,
        shared=(),
        shards=1,
        side=IMAGE_SIDE,
        format="jpeg",
        previous=None,
    )
    pipeline = beam.Pipeline(runner=FnApiRunner())
    store_images(pipeline, plan)
    pipeline.run().wait_until_finish()
    step = len(names) / (time.process_time() - start)
    (shard,) = (dataset / "images").iterdir()
    with contextlib.closing(ArrayRecordReader(str(shard))) as reader:
        stored = reader.num_records()
    if stored != len(names):
        sys.exit(f"{len(names)} pictures became {stored}")
    return step, alone


def image_share(work: Path, repeats: int) -> float:
    """The picture step's share of one core's rate, the median over repeats."""
    images = work / "pictures"
    if not images.is_dir():
        write_images(images, np.random.default_rng(0))
    names = sorted(path.name for path in images.iterdir())
    shares = []
    for _ in tqdm(range(repeats), desc="storing pictures", unit="run"):
        with tempfile.TemporaryDirectory(dir=work) as dataset, get_context("spawn").Pool(1) as process:
            step, alone = process.apply(image_rates, (images, names, Path(dataset)))
            shares.append(step / alone)
    print(f"pictures: {step:.0f} per processor second in the build, {alone:.0f} decoded and encoded alone, on one core")
    return round(statistics.median(shares), 3)


def main() -> None:
    """Runs the benchmark."""
    parser = benchmark_parser(__doc__, quick="200,000 impressions only")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side at 2 million; at 20 million one")
    parser.add_argument("--against", metavar="COMMIT", help="an older commit whose job is timed in the same turns")
    parser.add_argument("--work-dir", type=Path, help="keeps logs and outputs here; logs that are there are used again")
    run_benchmark("data_job", parser, measure)


def measure(args: argparse.Namespace) -> dict[str, float | int | None]:
    """Measures everything and prints the table."""
    use_two_cores()
    result: dict[str, float | int | None] = {}
    with contextlib.ExitStack() as stack:
        if args.work_dir is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            work = args.work_dir.resolve()
            work.mkdir(parents=True, exist_ok=True)
        before = stack.enter_context(checked_out(args.against)) if args.against else None
        share = image_share(work, 3)
        for case in CASES:
            small = case is CASES[0]
            if args.quick and small:
                quick = case._replace(impressions=case.impressions // QUICK_SHARE)
                result |= compare_builds(quick, work, args.repeats, before)
            elif not args.quick:
                result |= compare_builds(case, work, args.repeats if small else 1, before)
            else:
                result |= {name.replace(CASES[0].name, case.name): None for name in list(result)}
        result["images_share_of_core"] = share

    names = [name.removesuffix("_2m") for name in result if name.endswith("_2m")]
    print(f"\n{'':28s}" + "".join(f"{case.name:>12s}" for case in CASES))
    for name in names:
        cells = [result[f"{name}_{case.name}"] for case in CASES]
        print(f"{name:28s}" + "".join(f"{'-' if cell is None else cell:>12}" for cell in cells))
    print(f"{'images_share_of_core':28s}{result['images_share_of_core']:>12}")
    print("simulated logs and pictures; both sides on the same two cores")
    return result


if __name__ == "__main__":
    main()
