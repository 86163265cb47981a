"""Intervals, comparisons and ratings of scores. Takes arrays and returns numbers; does not know runs or judges."""
