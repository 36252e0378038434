"""What the API says of itself: OpenAPI, the page of the docs, and the index."""
