"""The world of strings: latent skills, tasks that are compositions of them, and a small decoder that knows the basic ones."""
