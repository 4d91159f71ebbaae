"""What docs/results.md is made of: a record for each finished pipeline, and the page of all records."""
