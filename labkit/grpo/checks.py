"""The claims of the family's bases, put to the test. A paper's own check stands in its file."""
