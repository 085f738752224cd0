import json

import pytest

from beam_pipelines.shell.command import CommandError
from models.finetune import main as finetune_command
from tests.models.finetuning.test_labelled_pictures import write_archive

ENCODER = "{embedding_dim: 4, backbone: {name: convnet, widths: [4, 8], depths: [0, 0], kernel: 3, grid: [1, 1]}}"
SMALL = ["image_size=[8, 6]", f"encoder={ENCODER}", "batch_size=2", "epochs=1", "augmentation=none"]


def arguments(directory, output, *options):
    overrides = [word for setting in SMALL for word in ("--set", setting)]
    return ["--data", str(directory), "--output", str(output), *overrides, *options]


def test_the_command_learns_from_an_archive(tmp_path):
    directory, output = write_archive(tmp_path / "archive"), tmp_path / "out"
    closing = finetune_command(arguments(directory, output))
    metrics = json.loads((output / "metrics.json").read_text())
    top1, top5 = (metrics[name][0] for name in ("top1", "top5"))
    assert closing == f"wrote an encoder to {output}: top1 {top1:.4f}, top5 {top5:.4f} on 1 pictures held out"
    assert (metrics["pictures"], metrics["classes"], top5) == (1, 2, 1.0)
    with pytest.raises(CommandError, match="exists; pass --overwrite to replace it"):
        finetune_command(arguments(directory, output))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--data", "{tmp}/none"], "--data: no directory"),
        (["--encoder", "{tmp}/none"], "--encoder: no directory"),
        (["--encoder", "{tmp}"], "--encoder: "),
        (["--data", "{tmp}"], "--data: "),
        (["--set", "epochs=0"], "epochs: "),
        (["--set", "retrieve.margin=1"], "unknown key retrieve.margin"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, options, text):
    directory = write_archive(tmp_path / "archive")
    given = [option.format(tmp=tmp_path) for option in options]
    with pytest.raises(CommandError) as refused:
        finetune_command(arguments(directory, tmp_path / "out", *given))
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)
