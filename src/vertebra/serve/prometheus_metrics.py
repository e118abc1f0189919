"""A server's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter = partial(Counter, namespace="vertebra", registry=registry)
        histogram = partial(Histogram, namespace="vertebra", registry=registry)
        self._requests = counter("requests", "Requests by route and status.", ["route", "status"])
        self._request_seconds = histogram(
            "request_seconds", "Seconds from a request's headers to its response.", ["route"], buckets=_SECONDS
        )
        self._images = counter("images", "Images by result.", ["model", "result"])
        self._batches = histogram("batch_images", "Images per batch.", ["model"], buckets=_SIZES)
        self._decoding = histogram("decode_seconds", "Seconds of decoding per batch.", ["model"], buckets=_SECONDS)
        self._inference = histogram("inference_seconds", "Seconds of inference per batch.", ["model"], buckets=_SECONDS)
        self._refused = counter("refused", "Requests refused, by reason.", ["reason"])
        self._reloads = counter("reloads", "Reloads of a model's file, by result.", ["model", "result"])

    def count_response(self, route: str, status: int, seconds: float) -> None:
        """Count a response and its seconds."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def count_images(self, model: str, predicted: int, unreadable: int) -> None:
        """Count the images of a request by result."""
        for result, count in (("ok", predicted), ("error", unreadable)):
            if count:
                self._images.labels(model, result).inc(count)

    def count_refusal(self, reason: str) -> None:
        """Count a refused request by its reason: "queue", "deadline", "connections", "key", "origin", …"""
        self._refused.labels(reason).inc()

    def count_reload(self, model: str, *, ok: bool) -> None:
        """Count a reload of a model's file by its result."""
        self._reloads.labels(model, "ok" if ok else "error").inc()

    def batch_observer(self, model: str) -> Callable[[int, float, float], None]:
        """A function that records a batch: its size, and its decoding and inference time in seconds."""
        sizes, decoding, inference = (each.labels(model) for each in (self._batches, self._decoding, self._inference))

        def observe(size: int, decode_seconds: float, inference_seconds: float) -> None:
            sizes.observe(size)
            decoding.observe(decode_seconds)
            inference.observe(inference_seconds)

        return observe

    def add_gauge(self, name: str, text: str, read: Mapping[str, Callable[[], float]] | Callable[[], float]) -> None:
        """Add a gauge that is read at each scrape; a mapping gives one per model."""
        if callable(read):
            Gauge(name, text, registry=self.registry).set_function(read)
            return
        gauge = Gauge(name, text, ["model"], registry=self.registry)
        for model, function in read.items():
            gauge.labels(model).set_function(function)

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
