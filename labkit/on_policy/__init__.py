"""Methods that learn from what their own policy has just done."""
