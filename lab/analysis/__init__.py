"""Looking into finished runs."""
