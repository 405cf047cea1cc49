"""labkit: the small PyTorch package under Drift Lab, a course on policy drift."""
