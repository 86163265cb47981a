"""Intervals, comparisons and ratings: arrays in, numbers out. Knows no run and no judge."""
