"""Checks that find faults of a model, an engine or a server, and how to fix them."""

from quernstone.doctor.diagnose import diagnose
from quernstone.doctor.report import Finding, Report, Verdict
from quernstone.doctor.server import Recognized, recognize

Recognised, recognise = Recognized, recognize  # the former spelling

__all__ = [
    "Finding",
    "Recognised",
    "Recognized",
    "Report",
    "Verdict",
    "diagnose",
    "recognise",
    "recognize",
]
