"""The to-do list in Redis: each module is one part of the state, each Lua script one atomic step."""
