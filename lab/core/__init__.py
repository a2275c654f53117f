"""What the rest stands on and knows nothing of the lab: errors, plug-ins, chance, files."""
