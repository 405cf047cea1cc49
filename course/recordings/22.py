"""Recordings of chapter 22: what the age of data costs, and what each paper makes of it."""
