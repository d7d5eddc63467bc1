"""Pairs of low rank: one pair after the other, in a basis of a few columns."""
