"""Saved adapters: reading, writing, arithmetic, moving them to another backbone."""
