"""Says in plain words what is wrong with a model, an engine or a server, and how to fix it."""

from quernstone.doctor.diagnose import diagnose
from quernstone.doctor.report import Finding, Report, Verdict

__all__ = ["Finding", "Report", "Verdict", "diagnose"]
