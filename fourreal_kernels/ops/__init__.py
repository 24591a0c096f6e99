"""Public operators. Each has its own package: ``api`` validates and dispatches, the other modules implement."""
