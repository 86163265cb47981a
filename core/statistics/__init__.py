"""Intervals, comparisons and ratings for scores. Functions take arrays and do not depend on runs or judges."""
