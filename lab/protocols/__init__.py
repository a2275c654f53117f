"""Protocols: in what order a run trains and evaluates."""
