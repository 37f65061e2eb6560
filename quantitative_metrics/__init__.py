"""Scores of a projection: pure functions of arrays, and one script that puts them together."""
