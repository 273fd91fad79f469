"""`quern serve`: one loaded model for many processes and languages, over HTTP.

`app` assembles the routes, `models` computes, `admission` decides what may wait, `native` is the
protocol of our own remote engine. Sources of the other request shapes: `schemas`.
"""
