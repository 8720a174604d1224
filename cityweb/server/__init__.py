"""Serves the application: uvicorn, its protocol with limits, and the startup of `runserver`."""
