"""What can be said of a transfer before any training: from the features of two domains to a verdict."""

from .build import diagnose, ranked
from .estimate import Estimate
from .types import Diagnosis, Domain, Settings
from .verdict import Finding, verdict

__all__ = ["Diagnosis", "Domain", "Estimate", "Finding", "Settings", "diagnose", "ranked", "verdict"]
