"""The page Routing in parts: its focus, the map, one decision, layers and heads, what if, all tasks together."""
