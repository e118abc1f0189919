"""One module per claim."""
