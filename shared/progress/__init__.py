"""Records in Redis that the workers write and the API reads."""
