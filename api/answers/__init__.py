"""From a query and a table, or from the status of Rowdrop, to the bytes of a response."""
