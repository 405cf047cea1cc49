"""Bandits: arms whose rewards may answer to the plays."""
