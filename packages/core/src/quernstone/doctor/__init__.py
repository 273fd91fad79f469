"""Checks that find faults of a model, an engine or a server, and how to fix them."""

from quernstone.doctor.diagnose import diagnose
from quernstone.doctor.report import Finding, Report, Verdict
from quernstone.doctor.server import Recognised, recognise

__all__ = ["Finding", "Recognised", "Report", "Verdict", "diagnose", "recognise"]
