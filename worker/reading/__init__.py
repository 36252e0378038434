"""Read the current files of users and submit the results."""
