"""Models behind a server: text goes out over HTTP, numbers come back.

`options` is what a user says, `dialects` what a server understands, `transport` how a request
gets there, and `backend` puts results where they belong.
"""
