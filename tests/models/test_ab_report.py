import json
import re

import pytest

from beam_pipelines.shell.command import CommandError
from models import ab_report
from tests.models.experiments.shop import simulate, write_experiment, write_shop


def test_the_command_reads_logs_with_other_names_and_writes_a_report(tmp_path, capsys):
    logs, exposures = write_shop(tmp_path, simulate(60, 3, 3))
    experiment = write_experiment(tmp_path / "e.json")
    options = ["--logs", str(logs), "--exposures", str(exposures), "--experiment", str(experiment)]
    closing = ab_report.main([*options, "--output", str(tmp_path / "out"), "--timestamp-unit", "milliseconds"])
    assert closing == f"wrote the report on pictures, 60 users, to {tmp_path / 'out'}"
    assert re.search(r"^orders_per_user +pictures +", capsys.readouterr().out, re.MULTILINE)
    assert json.loads((tmp_path / "out/report.json").read_text())["users"] == 60
    for more, text in (
        (["--experiment", str(tmp_path / "none")], "--experiment: "),
        (["--logs", str(tmp_path / "none")], "--logs: no directory"),
        (["--value", "price"], "--value must be a column stat_* of items"),
        (["--columns", "x"], "--columns: 'x' is not TABLE.COLUMN=NAME"),
    ):
        with pytest.raises(CommandError, match=re.escape(text)):
            ab_report.main([*options, "--output", str(tmp_path / "new"), *more])
