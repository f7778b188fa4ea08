"""One system per package, one question from start to end; knows nothing of pages, test sets or command
lines."""
