"""The page Playground: what is asked and of whom, the controls, the answer, and the routing behind it."""
