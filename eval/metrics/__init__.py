"""One file per metric; importing one loads nothing heavy."""
