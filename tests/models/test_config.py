import pytest

from beam_pipelines.format.errors import ConfigurationError, InputError
from models.config import load_config
from models.pretraining.config import PretrainConfig
from models.ranker.config import TrainingConfig
from models.vision.config import ConvNetConfig


def test_overrides_reach_into_sections_and_keep_the_rest():
    config = load_config(TrainingConfig, None, ["epochs=3", "ranker.lengths.click=9", "ranker.mlp_units=[8, 4]"])
    assert (config.epochs, config.ranker.lengths.click, config.ranker.mlp_units) == (3, 9, (8, 4))
    assert config.ranker.lengths.pay == TrainingConfig().ranker.lengths.pay


def test_yaml_round_trip(tmp_path):
    config = load_config(TrainingConfig, None, ["learning_rate=1", "ranker.attention.normalization=softmax"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(TrainingConfig, str(tmp_path / "config.yaml")) == config
    assert load_config(TrainingConfig, str(tmp_path / "config.yaml"), ["epochs=1"]).epochs == 1


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-03"])
def test_powers_of_ten_are_numbers(text, tmp_path):
    (tmp_path / "config.yaml").write_text(f"learning_rate: {text}")
    for config in (
        load_config(TrainingConfig, None, [f"learning_rate={text}"]),
        load_config(TrainingConfig, str(tmp_path / "config.yaml")),
    ):
        assert config.learning_rate == 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "unknown key epoch .known: .*epochs"),
        ("ranker.dim=3", "unknown key ranker.dim .known: .*item_dim"),
        ("ranker.lengths.click=-1", "ranker.lengths.click: .*Received: -1"),
        ("epochs=many", "epochs: .*Received: 'many'"),
        ("epochs=1.5", "epochs: "),
        ("epochs=true", "epochs: "),
        ("ranker.attention.normalization=mean", "ranker.attention.normalization: "),
        ("epochs", "`overrides`: expected key=value. Received: epochs"),
        ("epochs.x=1", "configuration: epochs"),
        ("epochs=[", "not valid YAML"),
    ],
)
def test_errors_name_the_key(override, message):
    with pytest.raises(ConfigurationError, match=message):
        load_config(TrainingConfig, None, [override])


def test_the_name_of_a_section_chooses_its_keys():
    config = load_config(PretrainConfig, "courier_cpu", ["encoder.backbone={name: convnet, widths: [8], depths: [1]}"])
    assert config.encoder.backbone == ConvNetConfig(widths=(8,), depths=(1,))
    assert config.encoder.embedding_dim == load_config(PretrainConfig, "courier_cpu").encoder.embedding_dim


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{name: swin, widths: [8]}", "unknown key encoder.backbone.widths .known: name, patch_size, "),
        ("{name: convnet, window: 7}", "unknown key encoder.backbone.window .known: name, widths, "),
        ("{name: swin, depths: [two]}", "encoder.backbone.depths.0: .*Received: 'two'"),
        ("{name: swin, drop_path: 1}", "encoder.backbone.drop_path: .*Received: 1"),
        ("{name: swin, dim: 10, num_heads: [3, 6]}", "encoder.backbone: .*num_heads of stage 0 must divide its 10"),
        ("{name: convnet, widths: [8, 16, 32], depths: [1]}", "encoder.backbone: .*depths must have one value per"),
        (
            "{name: resnet}",
            "encoder.backbone.name: must be one of swin, convnet, efficientnet_lite, m6. Received: resnet",
        ),
        ("{dim: 8}", "encoder.backbone.name: must be one of swin, convnet, efficientnet_lite, m6. Received: nothing"),
        ("swin", "encoder.backbone: "),
    ],
)
def test_errors_inside_a_chosen_section_name_the_key(section, message):
    with pytest.raises(ConfigurationError, match=message):
        load_config(PretrainConfig, None, [f"encoder.backbone={section}"])


def test_a_missing_file_lists_the_presets(tmp_path):
    with pytest.raises(ConfigurationError, match="`config`: no file nowhere and no preset of that name"):
        load_config(TrainingConfig, "nowhere")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigurationError, match="must be a mapping"):
        load_config(TrainingConfig, str(tmp_path / "list.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: 3\nlearning_rate: 1e-3\nepochs: 50\n", "line 3: the key epochs is there twice, in lines 1 and 3"),
        (
            b"# gr\xf6\xdfe\nepochs: 3\n",
            "c.yaml: must be UTF-8, or UTF-16 .* the byte 0xf6 in line 1 ",
        ),
        (b"checkpoint_minutes: 1:30\n", r"c.yaml: checkpoint_minutes: .*Received: '1:30'"),
        (b"average_weights: on\n", r"c.yaml: average_weights: .*Received: 'on'"),
        (b"optimizer: adam\n", r"c.yaml: optimizer: adam keeps no average of the weights; set average_weights=false"),
        (b"ranker: {largest_embedding: 0}\n", r"c.yaml: ranker.largest_embedding: .*Received: 0"),
        (b"epochs: 2024-03-01\n", r"c.yaml: epochs: .*Received: '2024-03-01'"),
        (b"learning_rate: .inf\n", r"c.yaml: learning_rate: .*finite"),
        (b"1: 2\n", "line 1: a key must be a text"),
        (b"epochs: 3\nranker: 5\n", "c.yaml: ranker: "),
        (b"[]", "c.yaml: must be a mapping"),
        (b"false", "c.yaml: must be a mapping"),
    ],
)
def test_errors_name_the_file_and_the_key_in_one_line(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_config(TrainingConfig, str(tmp_path / "c.yaml"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "c.yaml"))


def test_utf_16_and_empty_files_are_read(tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: 3\n", encoding="utf-16")
    assert load_config(TrainingConfig, str(tmp_path / "c.yaml")).epochs == 3
    (tmp_path / "c.yaml").write_text("# all defaults\n")
    assert load_config(TrainingConfig, str(tmp_path / "c.yaml")) == TrainingConfig()


def test_what_is_no_file_is_named(tmp_path):
    for name, message in ((tmp_path, "must be a file. Received: a directory"), ("x" * 300, "File name too long")):
        with pytest.raises(InputError, match=message):
            load_config(TrainingConfig, str(name))
    with pytest.raises(ConfigurationError, match="no preset of that name"):
        load_config(TrainingConfig, "\0")
    with pytest.raises(ConfigurationError, match=r"`overrides` epochs=\{a: 1, a: 2\}: .*the key a is there twice"):
        load_config(TrainingConfig, None, ["epochs={a: 1, a: 2}"])
    for override in ("=3", "ranker..x=3", "ranker.=3"):
        with pytest.raises(ConfigurationError, match="expected key=value"):
            load_config(TrainingConfig, None, [override])
