"""Generated scenarios with drawn images, which a demo can be shown on: nothing of them is of a patient."""

from medexp.data.scenarios.phantoms.write import ensure_scenarios

__all__ = ["ensure_scenarios"]
