"""Everything that training changes in a model, as named arrays: what a run needs to go on exactly."""

import re

import keras
import numpy as np

from beam_pipelines.format.errors import ArtifactError

_NUMBER = re.compile("_[0-9]+$")


def read_training_state(model: keras.Model) -> dict[str, np.ndarray]:
    """The model's weights and random states, its optimizer's variables and the metrics of the epoch so far.

    Under a `tf.distribute` strategy all workers must call it: metrics are summed over the replicas.
    """
    return {name: keras.ops.convert_to_numpy(variable) for name, variable in _variables(model).items()}


def write_training_state(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Gives a model the state of another one of the same architecture, in this process or an earlier one.

    Raises:
        ArtifactError: the architectures differ; names and shapes of what differs are listed.
    """
    variables = _variables(model)
    differing = [
        f"{name} {_shape(state.get(name))} there, {_shape(variables.get(name))} here"
        for name in sorted({*state, *variables})
        if _shape(state.get(name)) != _shape(variables.get(name))
    ]
    if differing:
        raise ArtifactError(f"the checkpoint is of a model of another shape: {'; '.join(differing)}")
    with model.distribute_strategy.scope():
        for name, variable in variables.items():
            variable.assign(state[name])


def write_metrics(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Writes the metrics of `state` alone, for Keras clears them at the beginning of an epoch."""
    metrics = {id(variable) for variable in model.metrics_variables}
    with model.distribute_strategy.scope():
        for name, variable in _variables(model).items():
            if id(variable) in metrics:
                variable.assign(state[name])


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """The variables by names that do not change: Keras numbers what it names through all models of a process."""
    named: dict[str, keras.Variable] = {}
    siblings: dict[str, list[str]] = {}

    def add(group: str, path: str, variable: keras.Variable) -> str:
        name = group
        for part in path.split("/"):
            base = f"{name}/{_NUMBER.sub('', part)}"
            known = siblings.setdefault(base, [])
            if part not in known:
                known.append(part)
            name = f"{base}_{known.index(part)}" if part != known[0] else base
        while name in named:
            name += "'"
        named[name] = variable
        return name

    # The optimizer names a slot after its variable's path, with `_` for `/`.
    owners = {variable.path.replace("/", "_"): add("model", variable.path, variable) for variable in model.variables}
    for variable in model.optimizer.variables:
        *parents, last = variable.path.split("/")
        owner = max((path for path in owners if last.startswith(f"{path}_")), key=len, default="")
        slot = f"{owners[owner]}/{last.removeprefix(f'{owner}_')}" if owner else last
        add("optimizer", "/".join([*parents, slot]), variable)
    for variable in model.metrics_variables:
        add("metrics", variable.path, variable)
    return named


def _shape(value: np.ndarray | keras.Variable | None) -> str:
    return "missing" if value is None else str(tuple(value.shape))
