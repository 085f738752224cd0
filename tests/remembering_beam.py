"""Beam without what it does again and again while a pipeline is put together: a third of the time of small builds."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import userstate


def remember_lookups() -> None:
    """Makes Beam keep what it finds of the same objects, for as long as they live.

    Every look at an option builds a parser of arguments, and every look at a transform inspects all methods of its
    `DoFn`. Views of options share the values, so that a view that is kept sees them change.
    """
    PipelineOptions.view_as = _remembered(PipelineOptions.view_as)
    userstate.get_dofn_specs = _remembered(userstate.get_dofn_specs)


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    found: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def remembering(of: Any, *arguments: Any) -> Any:
        known = found.setdefault(of, {})
        if arguments not in known:
            known[arguments] = function(of, *arguments)
        return known[arguments]

    return remembering
