"""The only place that knows one array library from another: namespaces, devices, linear algebra, derivatives, batches.

It may import the checks and nothing else of this package. A fact about a library stands here or nowhere; a shim goes
when array-api-compat knows its library.
"""
