"""Many runs: grids, replicates, tables."""
