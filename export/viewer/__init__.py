"""Shows pages of a dataset as users saw them and as rankers order them; `python -m export.viewer` is the command."""
