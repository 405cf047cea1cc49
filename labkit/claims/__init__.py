"""What became of the claims: the judge, the ledger of verdicts, and the mutants that show whether tests and claims bite."""
