"""HTTP as such: problem responses, ETags, ranges, bodies and transfers; no rows and no users."""
