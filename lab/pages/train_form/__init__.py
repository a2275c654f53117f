"""The form of the page Train: presets, options of a configuration, widgets, drafts in the link, and what to expect of the run."""
