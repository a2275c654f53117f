"""Streams of tasks, and texts as batches."""
