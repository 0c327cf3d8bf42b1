"""One self-contained page about a run: words, figures and tables computed from the run folder."""
