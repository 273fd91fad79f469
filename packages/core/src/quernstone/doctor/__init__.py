"""Says in plain words what is wrong with a model, an engine or a server, and how to fix it."""

from quernstone.doctor.diagnose import diagnose
from quernstone.doctor.report import Finding, Report, Verdict
from quernstone.doctor.server import Recognised, recognise

__all__ = ["Finding", "Recognised", "Report", "Verdict", "diagnose", "recognise"]
