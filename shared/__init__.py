"""Code shared by api and worker: settings, file formats, the object store, and records in Redis."""
