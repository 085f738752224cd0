import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from beam_pipelines import BuildOptions, build, build_dataset
from beam_pipelines.format.manifest import Manifest
from beam_pipelines.shell.command import CommandError, run_command
from tests.beam_pipelines.random_logs import SPLIT, write_logs

SPLIT_OPTION = ("--split-by-time", ",".join(SPLIT))


def fails(message, *arguments):
    with pytest.raises(CommandError, match=message):
        build.main([str(a) for a in arguments])


def exit_code(*arguments):
    with pytest.raises(SystemExit) as stop:
        run_command(build.main, [str(a) for a in arguments])
    return stop.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo=1", *SPLIT_OPTION], "unknown option --foo"),
        (["--split_by_time=1,2", *SPLIT_OPTION], "unknown option --split_by_time"),
        (["stray", *SPLIT_OPTION], "unknown argument 'stray'"),
        (["-x", *SPLIT_OPTION], "unknown argument '-x'"),
        (["--runner", "NoRunner", *SPLIT_OPTION], "--runner: Beam has no runner 'NoRunner'"),
        ([], "pages belong to no split: pass --split-by-time PRETRAIN_END,TRAIN_END, or add a column `split`"),
        (["--split-by-time", "2026-01-08"], "--split-by-time must be two moments"),
        (["--split-by-time", "2026-01-08,soon"], "--split-by-time must be two moments"),
        (["--split-by-time", "2026-01-08,2026-01-01"], "the earlier first"),
        (["--image-side", "0", *SPLIT_OPTION], "--image-side must be at least 1"),
        (["--page-buckets", "0", *SPLIT_OPTION], "--page-buckets must be at least 1"),
        (["--click-days", "0", *SPLIT_OPTION], "--click-days must be at least 1"),
        (["--train-negatives", "1.5", *SPLIT_OPTION], "--train-negatives must be between 0 and 1"),
        (["--attribute-clicks", "-1", *SPLIT_OPTION], "--attribute-clicks must be a number of hours"),
        (["--pretraining-view", "causal"], "causal needs --split-by-time"),
        (["--max-bad-fraction", "7", *SPLIT_OPTION], "--max-bad-fraction must be between 0 and 1"),
        (["--columns", "items.x=y", *SPLIT_OPTION], "items has no column 'x'"),
        (["--columns", "article", *SPLIT_OPTION], "--columns: 'article' is not TABLE.COLUMN=NAME"),
        (["--columns", "article=sku", *SPLIT_OPTION], "--columns: 'article=sku' is not TABLE.COLUMN=NAME"),
        (["--columns", "items.title=name", *SPLIT_OPTION], r"--columns: no file of items has a column 'name'|which"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(logs, tmp_path, arguments, message):
    fails(message, "--logs", logs, "--output", tmp_path / "d", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept_without_overwrite(logs, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").touch()
    command = ["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT_OPTION]
    fails("exists; pass --overwrite", *command)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["mine"]
    build.main([*command, "--overwrite"])
    assert not (tmp_path / "d" / "mine").exists()


def test_missing_logs_and_tables(tmp_path, log_rows):
    fails("--logs: no directory", "--logs", tmp_path / "none", "--output", tmp_path / "d", *SPLIT_OPTION)
    logs = write_logs(tmp_path / "logs", *log_rows)
    (logs / "items.parquet").unlink()
    assert exit_code("--logs", logs, "--output", tmp_path / "d", *SPLIT_OPTION) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_the_module_runs_bare_on_the_simulated_sample(tmp_path):
    """The command exactly as it is documented, from an empty directory; and workers import no TensorFlow."""
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; from beam_pipelines import build; sys.argv = ['build', '--runner=DirectRunner']; "
        "print(build.main()); assert 'tensorflow' not in sys.modules"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "artifacts/sample_logs does not exist: simulating the sample first" in run.stdout
    assert "in artifacts/dataset" in run.stdout
    assert "Traceback" not in run.stderr
    assert "WARNING" not in run.stderr
    assert Manifest.read(tmp_path / "artifacts/dataset").notice


def test_the_command_makes_what_the_library_makes_and_says_so(dataset, logs, tmp_path, capsys):
    closing = build.main(["--logs", str(logs), "--output", str(tmp_path / "d"), *SPLIT_OPTION])
    manifest = Manifest.read(tmp_path / "d")
    assert manifest == Manifest.read(dataset)
    pages = ", ".join(f"{split.pages} {name}" for name, split in manifest.splits.items())
    joined = "joined: impressions with items 100.0%, events with items 88.0%, items with pictures 100.0%"
    assert closing == f"dataset: pages {pages}; 7 pictures; 0 rejected rows; {joined}; in {tmp_path / 'd'}"
    told = [line.split(" (detected, e.g. ")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "running on FnApiRunner",
        "impressions.timestamp: milliseconds",
        "events.timestamp: milliseconds",
        "items.published_at: milliseconds",
        "impressions: 351 rows = 351 used + 0 rejected",
        "events: 300 rows = 300 used + 0 rejected",
        "items: 20 rows = 20 used + 0 rejected",
        f"impressions: {manifest.counters['impressions.conflicting']} rows repeat an item of their page with other "
        "values; a clicked row wins",
        "notice: made up",
    ]


def test_every_option_is_one_of_the_library(logs, dataset, tmp_path):
    options = BuildOptions(
        split_by_time=SPLIT,
        columns={"items.stat_price": "stat_cost"},
        timestamp_unit={"impressions.timestamp": "milliseconds", "events.timestamp": "milliseconds"},
        time_range=("2025-01-01", "2027-01-01"),
        missing_markers=("?", ""),
        min_joined=0.2,
        image_side=20,
        image_format="webp",
        max_bad_fraction=0.3,
        page_gap_minutes=5.0,
        split_reused_pages=True,
        click_days=3,
        pay_days=5,
        same_category_clicks=True,
        attribute_clicks=2.0,
        max_candidates=4,
        train_negatives=0.5,
        pretraining_view="causal",
        pretraining_negatives=0.7,
        pretraining_candidates=3,
        pretraining_clicks=2,
        pretraining_categories=("c", ""),
        bucket_memory_mb=100,
        page_buckets=3,
    )
    given = dataclasses.asdict(options)
    defaults = dataclasses.asdict(BuildOptions())
    assert [name for name in given if given[name] == defaults[name]] == []
    other = shutil.copytree(logs, tmp_path / "logs")
    items = pq.read_table(other / "items.parquet")
    names = ["stat_cost" if name == "stat_price" else name for name in items.column_names]
    pq.write_table(items.rename_columns(names), other / "items.parquet")
    expected = build_dataset(other, tmp_path / "expected", options, previous=dataset)

    words = ["--logs", str(other), "--output", str(tmp_path / "d"), "--previous", str(dataset)]
    for name, value in given.items():
        words.append(f"--{name.replace('_', '-')}")
        if name in ("split_by_time", "time_range"):
            words.append(",".join(value))
        elif name in ("columns", "timestamp_unit"):
            words += [f"{column}={source}" for column, source in value.items()]
        elif name in ("missing_markers", "pretraining_categories"):
            words += value
        elif value is not True:
            words.append(str(value))
    build.main(words)
    assert Manifest.read(tmp_path / "d") == expected


def test_without_options_the_command_builds_what_the_library_does():
    parsed = build._build_options(build._parser().options([]))
    given, defaults = dataclasses.asdict(parsed), dataclasses.asdict(BuildOptions())
    assert given == defaults | {"pretraining_categories": []}
