import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.format.errors import ConfigurationError
from models.yaml_file import read_yaml, write_yaml

TEXTS = [
    "1:30",
    "on",
    "off",
    "yes",
    "No",
    "y",
    "2024-03-01",
    "2024-03-01 10:00:00",
    "1_000",
    "0b11",
    "<<",
    "=",
    "190:20:30",
]
NUMBERS = {
    "1e3": 1000.0,
    "017": 17,
    "0o17": 15,
    "0x1F": 31,
    "+5": 5,
    "-3": -3,
    ".5": 0.5,
    "1.": 1.0,
    "-1E-3": -0.001,
    "08": 8,
}


@pytest.mark.parametrize("text", TEXTS)
def test_older_rules_do_not_apply(text):
    assert read_yaml(f"key: {text}", "file") == {"key": text}
    assert read_yaml(f"{text}: 1", "file") == {text: 1}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_numbers_are_those_of_the_core_schema(text, number):
    found = read_yaml(text, "file")
    assert (found, type(found)) == (number, type(number))


def test_nulls_bools_and_what_is_written_in_quotes():
    document = "[~, null, Null, true, FALSE, 'true', \"1\", .inf, -.Inf, !!str 3, !!float 3, text]"
    found = read_yaml(document, "file")
    assert found == [None, None, None, True, False, "true", "1", float("inf"), float("-inf"), "3", 3.0, "text"]
    assert read_yaml("", "file") is read_yaml("# nothing\n", "file") is None
    assert read_yaml("a: &x {b: 1}\nc: *x\n", "file") == {"a": {"b": 1}, "c": {"b": 1}}


DEEP = "&a0 [1, 1]\n" + "".join(f"- &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nrate: 1\nepochs: 50\n", "line 3: the key epochs is there twice, in lines 1 and 3"),
        ("a: {b: 1, b: 1}", "line 1: the key b is there twice, in lines 1 and 1"),
        ("a: 1\n2: b", "line 2: a key must be a text, in quotes if need be. Received: 2"),
        ("true: b", "a key must be a text"),
        ("? [a]\n: b", "a key must be a text, in quotes if need be. Received: a list or a mapping"),
        ("a: !!timestamp 2024-03-01", "line 1: values of the type !!timestamp are not known"),
        ("a: !!python/name:os.system", "are not known"),
        ("a: !!binary aGk=", "are not known"),
        ("a: !!int x", "line 1: must be of the type int. Received: x"),
        ("a: [", "line 1: "),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a: 1\n--- \nb: 2", "line 2: but found another document"),
        ("a: \x00", "special characters are not allowed"),
        ("a: &x [*x]", "aliases make it more than"),
        (f"- {DEEP}", "aliases make it more than"),
        ("a: *nothing", "found undefined alias"),
        ("[" * 5000, "nested too deeply"),
        ("9" * 5000, "a number of 5000 digits is too long"),
    ],
)
def test_errors_are_one_line_that_names_the_source_and_the_line(text, message):
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(text, "c.yaml")
    assert str(caught.value).startswith("c.yaml: not valid YAML: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from([*TEXTS, *NUMBERS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(TEXTS), inner, max_size=3),
    max_leaves=6,
)


@given(value=VALUES)
def test_what_is_written_reads_back_under_both_rules(value):
    text = write_yaml(value)
    assert read_yaml(text, "file") == value
    assert yaml.safe_load(text) == value
