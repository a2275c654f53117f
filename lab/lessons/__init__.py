"""Lessons: a YAML file each, and what reads them."""
