"""What a request starts in the workers, how it waits for the result, and what became of it."""
