"""From a query and a table to the bytes of a response."""
