"""Models on a server, over HTTP.

`options` holds the user's settings, `dialects` builds requests, `answers` reads their results,
`transport` sends them with retries, and `backend` assigns results to inputs.
"""
