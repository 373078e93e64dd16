"""What /metrics shows, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32)


class Metrics:
    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter("cyoa_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry)
        self.generations = Counter("cyoa_generations", "Scenes by how they ended", ["finish"], registry=self.registry)
        self.tokens = Counter("cyoa_tokens", "Tokens written", registry=self.registry)
        self.first = Histogram("cyoa_first_token_seconds", "To the first text of a scene", buckets=SECONDS, registry=self.registry)
        self.scene = Histogram("cyoa_scene_seconds", "To the end of a scene", buckets=SECONDS, registry=self.registry)
        self.running = Gauge("cyoa_running", "Scenes being written or waiting", registry=self.registry)
        self.ready = Gauge("cyoa_ready", "1 when a model is loaded", registry=self.registry)

    def generation(self, finish: str, tokens: int, first: float | None, seconds: float) -> None:
        self.generations.labels(finish).inc()
        self.tokens.inc(tokens)
        self.scene.observe(seconds)
        if first is not None:
            self.first.observe(first)

    def page(self) -> bytes:
        return generate_latest(self.registry)
