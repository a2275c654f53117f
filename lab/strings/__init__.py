"""The world of strings: latent skills, tasks that are known compositions of them, and a small decoder that knows the basic ones."""
