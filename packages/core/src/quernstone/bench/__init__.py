"""Measure how fast a model runs on this machine, and find the best batch budget."""

from quernstone.bench.measurement import measure
from quernstone.bench.report import Budget, Comparison, Floor, Latency, Rate, Report, Workload

__all__ = ["Budget", "Comparison", "Floor", "Latency", "Rate", "Report", "Workload", "measure"]
