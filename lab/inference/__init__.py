"""The model out of a run: loaded, asked, saved without its run, and handed on to other libraries."""
