"""What api and worker both stand on: settings, the file formats, the object store, the words in Redis."""
