"""What is seen: figures, widgets, live runs and the Drift Explorer. Consumers of records and snapshots only."""
