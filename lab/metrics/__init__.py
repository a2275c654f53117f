"""Numbers computed from the scores of a run: one metric per file, listed by being there; the contract is `base.Metric`."""
