"""One self-contained page about a run: words, figures and tables computed from the run folder."""

from cutaway.report.opened import Opened, open_model
from cutaway.report.picture_file import picture_path, save_figure
from cutaway.report.training import spread
from cutaway.report.write import write

__all__ = ["Opened", "open_model", "picture_path", "save_figure", "spread", "write"]
