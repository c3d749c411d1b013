"""One engine a file, each behind the same two questions: load, and generate."""
