"""Methods for worlds whose model is a table: every value, occupancy and gradient is exact, so all drift is the method's own."""
