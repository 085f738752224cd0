"""Counters of a server in Prometheus' text format, under the names that TensorFlow Serving uses."""

import bisect
import contextlib
import threading
import time
from collections.abc import Iterator

import grpc

from export.server.serving_error import ServingError

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"

_REQUESTS = ":tensorflow:serving:request_count"
_REQUEST_LATENCY = ":tensorflow:serving:request_latency"
_RUN_LATENCY = ":tensorflow:serving:runtime_latency"
_LOADS = ":tensorflow:cc:saved_model:load_attempt_count"
_LOAD_LATENCY = ":tensorflow:cc:saved_model:load_latency"
_BOUNDS = [10 * 1.8**n for n in range(33)]  # microseconds, TensorFlow Serving's

_Labels = tuple[tuple[str, str], ...]


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.sum = 0.0


class ServingMetrics:
    """Counts requests, runs of a model and loads. All durations are microseconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[_Labels, int]] = {_REQUESTS: {}, _LOADS: {}, _LOAD_LATENCY: {}}
        self._histograms: dict[str, dict[_Labels, _Histogram]] = {_REQUEST_LATENCY: {}, _RUN_LATENCY: {}}

    @contextlib.contextmanager
    def request(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Counts the block as a request and notes how it ends.

        Args:
            model: its name; use "" for one that is not served, for names that clients choose have no end.
            api: `Predict`, for example.
            entrypoint: `GRPC` or `REST`.
        """
        start = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            yield
        except ServingError as error:
            code = error.code
            raise
        except BaseException:
            code = grpc.StatusCode.INTERNAL
            raise
        finally:
            took = time.perf_counter() - start
            labels = (("model_name", model), ("API", api), ("entrypoint", entrypoint), ("status", code.name))
            with self._lock:
                self._add(_REQUESTS, (("model_name", model), ("status", code.name)), 1)
                self._observe(_REQUEST_LATENCY, labels, took)

    @contextlib.contextmanager
    def run(self, model: str, api: str) -> Iterator[None]:
        """Counts the block as a run of the model."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self._observe(_RUN_LATENCY, (("model_name", model), ("API", api), ("runtime", "TF1")), took)

    @contextlib.contextmanager
    def load(self, path: str) -> Iterator[None]:
        """Counts the block as an attempt to load the model at `path`."""
        start = time.perf_counter()
        status = "fail"
        try:
            yield
            status = "success"
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self._add(_LOADS, (("model_path", path), ("status", status)), 1)
                self._add(_LOAD_LATENCY, (("model_path", path),), round(1e6 * took))

    def text(self) -> str:
        """All of them, as Prometheus reads them."""
        lines = []
        with self._lock:
            for name, counters in self._counters.items():
                lines.append(f"# TYPE {name} counter")
                lines += [f"{name}{_braces(labels)} {value}" for labels, value in counters.items()]
            for name, histograms in self._histograms.items():
                lines.append(f"# TYPE {name} histogram")
                for labels, histogram in histograms.items():
                    total = 0
                    for bound, count in zip([*_BOUNDS, None], histogram.counts, strict=True):
                        total += count
                        limit = "+Inf" if bound is None else f"{bound:.6g}"
                        lines.append(f"{name}_bucket{_braces((*labels, ('le', limit)))} {total}")
                    lines.append(f"{name}_sum{_braces(labels)} {histogram.sum:.6g}")
                    lines.append(f"{name}_count{_braces(labels)} {total}")
        return "\n".join(lines) + "\n"

    def _add(self, name: str, labels: _Labels, value: int) -> None:
        counters = self._counters[name]
        counters[labels] = counters.get(labels, 0) + value

    def _observe(self, name: str, labels: _Labels, seconds: float) -> None:
        histogram = self._histograms[name].setdefault(labels, _Histogram())
        histogram.counts[bisect.bisect_left(_BOUNDS, 1e6 * seconds)] += 1
        histogram.sum += 1e6 * seconds


def _braces(labels: _Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
