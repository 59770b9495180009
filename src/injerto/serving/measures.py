"""What Prometheus is told."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from injerto.serving.batcher import Batcher
from injerto.serving.desk import Desk
from injerto.serving.drift import Drifts

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """Counters of one server.

    Attributes:
        requests: By route and status.
        seconds: Of requests, by route.
        answers: By adapter.
    """

    def __init__(self, desk: Desk, batchers: Iterable[Batcher], drifts: Drifts) -> None:
        """Begin at zero.

        Args:
            desk: Whose adapters are counted.
            batchers: Whose queues are looked at.
            drifts: What is known of the inputs.
        """
        self._registry = CollectorRegistry()
        self._desk, self._batchers, self._drifts = desk, batchers, drifts
        self.requests = Counter("injerto_requests", "Requests.", ["route", "status"], registry=self._registry)
        self.seconds = Histogram(
            "injerto_request_seconds", "Seconds of a request.", ["route"], buckets=BUCKETS, registry=self._registry
        )
        self.answers = Counter("injerto_answers", "Answers.", ["adapter"], registry=self._registry)
        self._registry.register(self)  # type: ignore[arg-type]

    def collect(self) -> Iterator[Any]:
        """What is looked up when it is asked for."""
        batchers = list(self._batchers)
        yield GaugeMetricFamily("injerto_adapters", "Adapters that can be asked.", value=len(self._desk.names))
        size = sum(bank.bytes for bank in self._desk.banks)
        yield GaugeMetricFamily("injerto_adapter_bytes", "Memory of the adapters' numbers.", value=size)
        waiting = sum(one.waiting for one in batchers)
        yield GaugeMetricFamily("injerto_waiting", "Questions in the queue.", value=waiting)
        for name, text, value in (
            ("injerto_batches", "Batches computed.", sum(one.batches for one in batchers)),
            ("injerto_batched_questions", "Questions in them.", sum(one.answered for one in batchers)),
            ("injerto_busy_seconds", "Seconds of computing.", sum(one.busy for one in batchers)),
        ):
            yield CounterMetricFamily(name, text, value=value)
        watches = self._drifts.all()
        windows = CounterMetricFamily("injerto_drift_windows", "Windows of inputs tested.", labels=["adapter"])
        alarms = CounterMetricFamily("injerto_drift_alarms", "Windows that looked changed.", labels=["adapter"])
        last = GaugeMetricFamily("injerto_drift_p_value", "Of the last window: unchanged?", labels=["adapter"])
        for adapter, watch in watches.items():
            windows.add_metric([adapter], watch.windows)
            alarms.add_metric([adapter], watch.alarms)
            if watch.last is not None:
                last.add_metric([adapter], watch.last.p_value)
        yield from (windows, alarms, last)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
