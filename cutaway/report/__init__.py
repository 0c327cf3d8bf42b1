"""One self-contained page about a run: words, figures and tables computed from the run folder."""

from cutaway.report.opened import Opened, open_model
from cutaway.report.panel import panel, picture_path, save_figure
from cutaway.report.training import spread
from cutaway.report.write import write

__all__ = ["Opened", "open_model", "panel", "picture_path", "save_figure", "spread", "write"]
