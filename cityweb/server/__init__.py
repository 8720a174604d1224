"""How the application is served: uvicorn, its protocol with limits, and what `runserver` prepares."""
