"""The HTTP API and the monitor of a store: one application, for uvicorn and for Ray Serve. Needs the extra `serve`."""
