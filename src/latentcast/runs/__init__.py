"""Run folders as they lie on disk: found, summarised, listed and compared, also damaged ones."""

from latentcast.runs.comparison import Comparison, as_json, compare, print_comparison
from latentcast.runs.folder import RunFolder, find, is_run
from latentcast.runs.listing import Order, in_order, print_runs
from latentcast.runs.summary import RunSummary, State, list_runs, summarise

__all__ = [
    "Comparison",
    "Order",
    "RunFolder",
    "RunSummary",
    "State",
    "as_json",
    "compare",
    "find",
    "in_order",
    "is_run",
    "list_runs",
    "print_comparison",
    "print_runs",
    "summarise",
]
