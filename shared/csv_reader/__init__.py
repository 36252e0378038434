"""Reads the CSV of one user, in the forms in which spreadsheets write it; pure.

The ordinary file takes the shortest path. A reason is found only after a rule is broken.
"""
