"""Transfer-learning and domain-adaptation experiments from config files.

Importing this package imports nothing heavy: `tlrun --help` must answer at once.
"""

__version__ = "0.1.0"
