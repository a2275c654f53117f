"""Skills on strings, tasks that are compositions of these skills, and a small decoder that is pretrained on the basic ones."""
