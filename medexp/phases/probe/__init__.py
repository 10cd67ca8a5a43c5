"""A head on any registered encoder over any labelled table."""

from medexp.phases import Phase, from_recipe
from medexp.phases.probe.config import ProbeConfig

PHASE = Phase(
    "probe",
    ProbeConfig,
    "medexp.phases.probe.recipe",
    checks=("TWINS", "LEAK", "PROBE_MAJORITY", "PROBE_ATTRIBUTION", "SHORTCUT", "CONTROLS"),
    revision=3,
)
__getattr__ = from_recipe(PHASE)
