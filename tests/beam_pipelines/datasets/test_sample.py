import pytest

from beam_pipelines.datasets.sample import main
from beam_pipelines.shell.command import CommandError


def test_the_command_writes_logs_and_says_what_is_in_them(tmp_path):
    logs = tmp_path / "logs"
    arguments = ["--output", str(logs), "--photos", "100", "--users", "30", "--pages", "60"]
    closing = main(arguments)
    assert closing.startswith(f"{logs}: 60 pages with ")
    assert "of 30 users on 100 photos" in closing
    assert "simulated behaviour on real photos" in closing
    with pytest.raises(CommandError, match="exists; pass --overwrite"):
        main(arguments)
    with pytest.raises(CommandError, match=r"^--photos must be in .*Received: 5$"):
        main(["--photos", "5"])
