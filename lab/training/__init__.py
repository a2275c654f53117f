"""How a run is trained, evaluated, recorded and resumed."""
