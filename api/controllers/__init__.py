"""What a POST starts in the workers, and how a request waits for it."""
