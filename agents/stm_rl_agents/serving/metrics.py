"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests", ("route", "method", "status"))
        self.turns = self._counter("turns", "Turns that sessions have taken in")
        self.writes = self._counter("memory_writes", "Turns written to memory")
        self.reads = self._counter("memory_reads", "Slots read")
        self.superseded = self._counter("memory_superseded", "Turns in memory that others took the place of")
        self.tokens_sent = self._counter("tokens_sent", "Tokens put in front of the model")
        self.tokens_full = self._counter("tokens_full_history", "Tokens that whole histories would have had")
        self.deleted = self._counter("sessions_deleted_for_room", "Least recently used sessions deleted to make room")
        self.policy = self._histogram("policy", "Making, restoring and asking sessions' memories")
        self.upstream = self._histogram("upstream", "The model's answers")
        self.store = self._histogram("store", "Reading and writing sessions on disk")
        self.overhead = self._histogram("overhead", "Answered chat requests, without the model and waiting for a lock")
        self.live = self._gauge("sessions_live", "Sessions in RAM")
        self.stored = self._gauge("sessions_stored", "Sessions on disk")
        self.running = self._gauge("chats_running", "Chat requests under way")

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"stm_rl_{name}", help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"stm_rl_{name}", help, registry=self.registry)

    def _histogram(self, name: str, help: str) -> Histogram:
        return Histogram(f"stm_rl_{name}_seconds", help, registry=self.registry, buckets=BUCKETS)
