"""What tests share: small models, streams and run folders made by hand. Tests import from here, never from each other."""
