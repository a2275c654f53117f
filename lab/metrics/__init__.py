"""Numbers from a score matrix, and what a few repetitions allow to say of them."""
