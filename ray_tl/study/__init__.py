"""Remember every trial."""
