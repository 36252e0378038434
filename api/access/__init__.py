"""Who may use the API: tokens, hosts, origins and failed attempts."""
